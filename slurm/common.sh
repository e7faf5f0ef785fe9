# shellcheck shell=bash
# What the job scripts share.  Sourced from the repository's root.

# Read the site's settings and take the virtual environment into use.
load_environment() {
    if [[ ! -f slurm/env.sh ]]; then
        echo "error: slurm/env.sh is missing; copy slurm/env.example to it and edit it" >&2
        exit 2
    fi
    # shellcheck source=/dev/null
    source slurm/env.sh
    if [[ ! -x "$DASD_VENV/bin/python" ]]; then
        echo "error: no virtual environment at $DASD_VENV (DASD_VENV in slurm/env.sh)" >&2
        exit 2
    fi
    export PATH="$DASD_VENV/bin:$PATH"
}

# run_step COMMAND...: run it as the job's step; its exit status is the job's.
# Shortly before the time limit (USR1) the step is stopped, and training saves; a job whose step has
# stopped is put back into the queue: what it runs goes on from where it was.
run_step() {
    srun "$@" &
    local step=$! status=0
    trap 'stop_and_requeue "$step"' USR1
    wait "$step" || status=$?
    if [[ $status -eq 75 ]]; then # stopped with its work kept, e.g. at a limit of training's flags
        requeue
    fi
    return "$status"
}

stop_and_requeue() {
    echo "the time limit is near: stopping, to go on when the job starts again"
    kill -TERM "$1"
    wait "$1" || true
    requeue
}

requeue() {
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
