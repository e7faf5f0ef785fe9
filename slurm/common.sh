# shellcheck shell=bash
# Functions of the job scripts.

# The checkout: set by submit.py; by hand, where sbatch was started.
DASD_HOME="${DASD_HOME:-${SLURM_SUBMIT_DIR:-$PWD}}"

die() {
    echo "error: $*" >&2
    exit 2
}

# require NAME WHAT: fail unless a variable is set.
require() {
    [[ -n "${!1:-}" ]] || die "$1 is not set: $2 (slurm/env.sh, see slurm/env.example)"
}

# usage SCRIPT: print the header of a script and exit.
usage() {
    sed -n '2,/^#SBATCH/{/^#SBATCH/d;s/^# \{0,1\}//;p}' "$DASD_HOME/slurm/$1.sbatch" >&2
    exit 2
}

# Read the site's settings; `run` and `start_step` use the environment that they name.
load_environment() {
    local settings="${DASD_ENV:-$DASD_HOME/slurm/env.sh}"
    [[ -f "$settings" ]] || die "$settings is missing; copy slurm/env.example to it and edit it"
    # shellcheck source=/dev/null
    source "$settings"
    require DASD_ENVIRONMENT "venv, pyxis or apptainer"
    srun_options=() in_container=() # before and after srun's own words
    program=(python -m megatron_dasd.pipeline)
    case "$DASD_ENVIRONMENT" in
    venv)
        require DASD_VENV "the virtual environment, visible on every node"
        [[ -x "$DASD_VENV/bin/python" ]] || die "no virtual environment at $DASD_VENV (DASD_VENV)"
        export PATH="$DASD_VENV/bin:$PATH"
        ;;
    pyxis)
        require DASD_IMAGE "the container image, see slurm/container/"
        srun_options=(--container-image="$DASD_IMAGE" --container-workdir="$PWD"
            --container-mounts="${DASD_MOUNTS:-$PWD:$PWD}")
        ;;
    apptainer)
        require DASD_IMAGE "the container image, see slurm/container/"
        in_container=(apptainer exec --nv --pwd "$PWD" --bind "${DASD_MOUNTS:-$PWD}" "$DASD_IMAGE")
        ;;
    *) die "DASD_ENVIRONMENT=$DASD_ENVIRONMENT: expected venv, pyxis or apptainer" ;;
    esac
    # Slurm 22.05 and later do not hand these on from a job to its steps.
    [[ -z "${SLURM_CPUS_PER_TASK:-}" ]] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
}

# gpu_environment: in a job with GPUs, defaults for training on H100s; env.sh goes before them.
gpu_environment() {
    [[ -n "${SLURM_GPUS_ON_NODE:-${SLURM_JOB_GPUS:-}}" ]] || return 0
    # A collective that times out raises an error in its rank; the job does not hang.
    export TORCH_NCCL_ASYNC_ERROR_HANDLING="${TORCH_NCCL_ASYNC_ERROR_HANDLING:-1}"
    # Buffers grow in place: rows of many lengths do not fragment the memory.
    export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
    # NVLink's switches reduce gradients (NVLS, on H100 nodes).
    export NCCL_NVLS_ENABLE="${NCCL_NVLS_ENABLE:-1}"
    # NCCL does not record streams of each launch, so freed memory is reused sooner.
    export TORCH_NCCL_AVOID_RECORD_STREAMS="${TORCH_NCCL_AVOID_RECORD_STREAMS:-1}"
    # Only warnings; set INFO when a start hangs.
    export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"
    # Kernels of different streams start in the order in which they were launched: Megatron asks
    # for it under tensor parallelism. (The ranks set it too.)
    export CUDA_DEVICE_MAX_CONNECTIONS="${CUDA_DEVICE_MAX_CONNECTIONS:-1}"
}

# run COMMAND...: in the environment, on this node, in the background; sets `child`.
run() {
    if [[ "$DASD_ENVIRONMENT" == pyxis ]]; then
        srun --overlap --nodes=1 --ntasks=1 "${srun_options[@]}" "$@" &
    else
        "${in_container[@]}" "$@" &
    fi
    child=$!
}

# start_step: run what the stage requests in $DASD_STEPS/request as a step on all nodes; sets `step`.
# See megatron_dasd/device/srun.py.
start_step() {
    local -a asked
    mapfile -t asked <"$DASD_STEPS/request"
    rm -f "$DASD_STEPS/request" "$DASD_STEPS/stop"
    MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
    export MASTER_ADDR
    env "${asked[@]:6}" srun --kill-on-bad-exit=1 --nodes="${asked[0]}" --ntasks="${asked[1]}" \
        --ntasks-per-node="${asked[2]}" --output="${asked[3]}" "${srun_options[@]}" \
        "${in_container[@]}" python -m megatron_dasd.device.task "${asked[4]}" "${asked[5]}" &
    step=$!
}

# end_of_step: write the step's status once it has ended; pass a request to stop on to it.
end_of_step() {
    local status=0
    if [[ -f "$DASD_STEPS/stop" ]]; then
        rm -f "$DASD_STEPS/stop"
        kill -USR1 "$step" 2>/dev/null || true
    fi
    if ! kill -0 "$step" 2>/dev/null; then
        wait "$step" || status=$?
        echo "$status" >"$DASD_STEPS/status.tmp"
        mv "$DASD_STEPS/status.tmp" "$DASD_STEPS/status"
        step=""
    fi
}

# attend: wait for `child`, running the steps that it requests; returns its exit status.
attend() {
    local step="" status=0
    while kill -0 "$child" 2>/dev/null; do
        if [[ -n "$step" ]]; then
            end_of_step
        elif [[ -f "$DASD_STEPS/request" ]]; then
            start_step
        fi
        sleep 0.2 &
        wait $! || true # a signal ends the wait, and its trap runs
    done
    [[ -z "$step" ]] || kill -KILL "$step" 2>/dev/null || true
    wait "$child" || status=$?
    return "$status"
}

# check_start PIPELINE STAGE [OPTIONS]: check that the nodes work and that restarts make progress.
check_start() {
    local status=0 report="$DASD_STEPS/health"
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
        "${srun_options[@]}" "${in_container[@]}" python -m megatron_dasd.cluster.health \
        >"$report" || true
    run python -m megatron_dasd.cluster.start "$report" "$@"
    attend || status=$?
    if [[ $status -eq 75 && -z "$stopped_by" ]]; then
        leave_bad_nodes "$(sed -n 's/\t..*//p' "$report" | paste -sd,)"
    fi
    # stopped before the stage began: nothing has failed, and the job is not done
    [[ $status -ne 0 || -z "$stopped_by" ]] || status=75
    [[ $status -eq 0 ]] || finish "$status"
}

# leave_bad_nodes NODES: put the job back into the queue, to start on other nodes.
leave_bad_nodes() {
    echo "back into the queue, without $1"
    trap '' TERM # what Slurm sends a job that it puts back, and more is left to do
    scontrol requeuehold "$SLURM_JOB_ID"
    scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="$1"
    scontrol release "$SLURM_JOB_ID"
    exit 75
}

# prepare: note signals and pass them on to `child`; make the folder of steps.
prepare() {
    stopped_by="" child=""
    trap 'stopped_by=TERM; pass_on' TERM
    trap 'stopped_by=USR1; pass_on' USR1
    # The working directory is seen on all nodes and in containers.  An earlier start of this job that
    # was killed may have left the folder.
    export DASD_STEPS="$PWD/.dasd-steps-$SLURM_JOB_ID"
    rm -rf "$DASD_STEPS"
    mkdir "$DASD_STEPS"
    trap 'rm -rf "$DASD_STEPS"' EXIT
}

pass_on() {
    [[ -z "$child" ]] || kill -TERM "$child" 2>/dev/null || true
}

# finish STATUS: end the job, or put it back into the queue.
finish() {
    # 143: killed by the signal before it could handle it
    if [[ ($1 -eq 75 && "$stopped_by" != TERM) || ($1 -eq 143 && "$stopped_by" == USR1) ]]; then
        echo "stopped with its work kept: back into the queue"
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$1"
}

# over_mpi: run the program as an MPI job; one rank is the program and hands out work to the others.
over_mpi() {
    [[ "$DASD_ENVIRONMENT" == venv ]] || die "several tasks over MPI need DASD_ENVIRONMENT=venv"
    program=(mpiexec -n "$SLURM_NTASKS" python -m mpi4py.futures -m megatron_dasd.pipeline)
}

# run_stage PIPELINE STAGE [OPTIONS]: run the stage once the nodes are checked.
# Shortly before the time limit (USR1) the stage is stopped with its work kept and the job is put
# back into the queue; likewise when it stops by itself (status 75). A cancelled or preempted job
# gets SIGTERM: the stage stops too, and Slurm decides what becomes of the job.
run_stage() {
    local pipeline="$1" stage="$2" status=0
    shift 2
    gpu_environment
    prepare
    check_start "$pipeline" "$stage" "$@"
    # cluster.start knows the kind of the stage
    [[ ! -f "$DASD_STEPS/mpi" ]] || over_mpi
    run "${program[@]}" "$pipeline" --only "$stage" "$@"
    attend || status=$?
    finish "$status"
}

# serve PIPELINE SERVICE: run a server until it is stopped; at its time limit it is started again.
serve() {
    local status=0
    prepare
    run python -m megatron_dasd.cluster.serve "$@"
    attend || status=$?
    finish "$status"
}
