"""What the settings of all stage kinds share, and how a stage kind is declared.

A stage kind is a subclass of :class:`Settings` with a ``kind`` and a :class:`Stage`.  Declaring it
registers it; ``config.stages`` finds it by its kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from megatron_dasd.config.execution import Execution, execution_settings, models_within

_LONGEST_URL = 2048


class Reference:
    """Marks a field as an input: a stage's name or a path."""


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=128)]
"""Of a stage or a server; it is a folder's name too."""
Input = Annotated[str, Reference()]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NumWorkers = Annotated[Positive | None, Execution()]
"""Processes that share a stage's work on one machine; None: one a core."""
OnMalformed = Literal["stop", "set_aside"]
TemplateVariables = dict[str, bool | int | float | str]
"""Variables of a chat template, e.g. ``{enable_thinking: true}`` or ``{reasoning_effort: high}``.
Training and sampling of one model should have the same."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a stage kind declares beside its settings."""

    module: str
    """Module whose ``run(settings, inputs, folder)`` does the work and returns the figures.  It is
    imported when the stage runs, so a pipeline file is checked without torch."""
    warning_seconds: int = 60
    """Seconds before the time limit of its Slurm job at which it is asked to stop: enough to keep
    its work."""
    over_mpi: bool = False
    """Whether several processes share its work, unless it computes with a model itself: those of a
    node, or the tasks of its Slurm job as one MPI job."""
    in_rounds: bool = False
    """Whether it may be a stage of an on-policy round."""
    describes_run: bool = False
    """Whether the manifests of all stages that it depends on, wall times included, are its inputs
    too."""
    has_workers: bool = False
    """Whether its function is given the programs of workers that run other stages beside it."""
    makes: type | None = None
    """What it makes: a type of record or one of ``config.products``; None: not declared."""
    reads: Mapping[str, type | tuple[type, ...]] = field(default_factory=dict)
    """By the name of an input's setting, what another stage must have made for it to be read; an
    empty tuple: the input is files, and no stage makes them."""


class Settings(BaseModel):
    """What all stage kinds share: unknown settings are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: ClassVar[Stage]

    kind: str
    """Which stage this is; each subclass has one name for itself."""
    seed: int | None = None
    """Default: the pipeline's."""

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Register the kind.  A subclass without a kind of its own is a base of other kinds."""
        super().__pydantic_init_subclass__(**options)
        for kind in get_args(cls.model_fields["kind"].annotation):
            if "stage" not in cls.__dict__:
                raise TypeError(f"{cls.__name__}: stage kind {kind} declares no Stage")
            if other := _KINDS.get(kind):
                raise TypeError(
                    f"{cls.__name__}: stage kind {kind} is registered already, by "
                    f"{other.__module__}.{other.__name__}"
                )
            _KINDS[kind] = cls

    def identity(self) -> dict[str, Any]:
        """What determines the result, as JSON values: every setting not marked as execution.

        A stage may resume with another layout of processes, with another loader of the same rows
        or with other servers of the same model.
        """
        return self.model_dump(mode="json", exclude=execution_settings(self))

    @property
    def inner_stages(self) -> "Mapping[str, Settings]":
        """Stages that this one runs within itself, by name; they may read what it makes too."""
        return {}

    @property
    def needs_gpus(self) -> bool:
        """Whether the stage computes with a model itself; one that asks servers does not."""
        return False

    @property
    def num_ranks(self) -> int | None:
        """Ranks of a distributed stage; None: it is not distributed."""
        return None

    @property
    def works_over_mpi(self) -> bool:
        """Whether several tasks of its Slurm job share its work, as one MPI job."""
        return self.stage.over_mpi and not self.needs_gpus

    @property
    def services(self) -> list[str]:
        """The services that the stage asks, or stages within it; each once."""
        servers = (model for model in models_within(self) if isinstance(model, Server))
        return list(dict.fromkeys(server.service for server in servers if server.service))


_KINDS: dict[str, type[Settings]] = {}


def registered_kinds() -> dict[str, type[Settings]]:
    """Settings classes by kind, of the modules imported so far; see ``config.stages``."""
    return dict(_KINDS)


class ThinkingFormat(BaseModel):
    """Delimiters of the thinking part in a model's text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["delimiters", "harmony"] = "delimiters"
    """``harmony``: the channels of gpt-oss, which have their own ``open`` and ``close``."""
    open: str = "<think>\n"
    """Text before the thinking part; empty: the response begins with the thinking part."""
    required: bool = True
    """Whether a text without a thinking part is no whole response; else it is a plain answer."""
    close: str = Field(default="\n</think>\n\n", min_length=1)
    """Text between the thinking part and the answer.  Whitespace at the ends of both delimiters is
    ignored in reading, and is written where the teacher continues a text."""

    @model_validator(mode="before")
    @classmethod
    def _harmony(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("format") != "harmony":
            return given
        own = {
            "open": "<|channel|>analysis<|message|>",
            "close": "<|end|><|start|>assistant<|channel|>final<|message|>",
        }
        if any(given.get(name, text) != text for name, text in own.items()):
            raise ValueError("format: harmony has delimiters of its own; leave open and close out")
        return given | own


_TEMPLATE_FIELDS = (
    "reasoning_effort",
    "chat_template_kwargs",
    "chat_template",
    "enable_thinking",
    "thinking",
    "tools",
    "tool_choice",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
)
"""Fields of a request that only a server's own chat template reads."""
_OWN_FIELDS = [
    "model",
    "prompt",
    "messages",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "n",
    "stream",
    "max_tokens",
    "logprobs",
    "prompt_logprobs",
    "echo",
]
"""Fields of a request that follow from other settings, or that the answers are parsed by."""


def is_http_address(url: str) -> bool:
    """Whether a URL is an ``http://`` or ``https://`` address of a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of brackets
        return False


def url_fault(url: str) -> str | None:
    """What is wrong with a server's base URL, without repeating it; None: nothing."""
    odd = not url.isprintable() or " " in url or "\\" in url
    if len(url) > _LONGEST_URL or odd or not is_http_address(url):
        return "is no http:// or https:// address"
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        return "holds a name, password or query; give the key by api_key_env"
    return None


class Server(BaseModel):
    """OpenAI-compatible servers (vLLM, SGLang, a hosted one) that run one model; docs/sampling.md.

    Other servers of the same model, or another way to reach them, do not change a stage's result.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    urls: Annotated[list[str], Execution()] = []
    """Base URLs, e.g. ``http://node7:8000/v1``; each request goes to the server with the fewest."""
    service: Annotated[Name | None, Execution()] = None
    """Name of one of ``cluster.servers``, in a submitted pipeline: its servers are found once they
    have started."""
    api: Literal["completions", "chat"] = "completions"
    """``completions``: this program applies the chat template of ``model``; ``chat``: the server
    applies its own."""
    model: str | None = None
    """The model's name at the servers; None: they serve only one."""
    extra_body: dict[str, Any] = {}
    """Fields added to every request, e.g. ``{top_k: 40}``.  ``null`` removes one of the program's
    fields: ``{return_token_ids: null}`` for servers that refuse unknown fields."""
    reload: Annotated[Literal["vllm", "sglang", "restart"] | None, Execution()] = None
    """How the servers get the weights of the stage's model, if they run others: ``vllm`` and
    ``sglang`` are asked to load its folder; ``restart`` restarts the servers of a ``service``.
    None: they run it already."""
    send_seed: bool = True
    """Whether each request carries its seed; vLLM samples faster without seeds."""
    rescore_by: Literal["prompt_logprobs", "echo", "sglang"] = "prompt_logprobs"
    """How the log-probs of a given text are requested: by vLLM's field, by the older ``echo``, or
    from SGLang's own API beside ``/v1``."""
    api_key_env: Annotated[str | None, Execution()] = None
    """Environment variable that holds the API key; None: no key is sent."""
    concurrency: Annotated[Positive, Execution()] = 256
    """Most requests in flight, over all servers and from all client processes."""
    client_processes: Annotated[Positive, Execution()] = 1
    """Processes that ask, each with a share of ``concurrency``: more where one fills its core.
    Ignored under MPI, where all ranks but one ask."""
    deadline_seconds: Annotated[float, Field(gt=0), Execution()] = 3600.0
    """Timeout of one attempt at a request, in seconds."""
    max_attempts: Annotated[Positive, Execution()] = 6
    """Attempts at a request before it is set aside.  Attempts that reach no server or get status
    429 do not count."""
    patience_seconds: Annotated[float, Field(ge=0), Execution()] = 600.0
    """Seconds to wait while no server answers, and for a request that keeps getting status 429."""
    probe: Annotated[bool, Execution()] = True
    """Whether sampling and ``score_topk`` begin with a check that the log-probs are those of the
    untempered distribution."""

    @model_validator(mode="after")
    def _leaves_own_fields(self) -> "Server":
        for name in _OWN_FIELDS:
            if self.extra_body.get(name) is not None:
                raise ValueError(f"extra_body: {name} is set by the program")
        return self

    @model_validator(mode="after")
    def _template_is_the_servers(self) -> "Server":
        if self.api == "completions":
            for name in _TEMPLATE_FIELDS:
                if self.extra_body.get(name) is not None:
                    raise ValueError(
                        f"extra_body: {name} is read by a server's own chat template only, and "
                        "with api: completions the prompt is rendered here; set the stage's "
                        "chat_template_kwargs"
                    )
        return self

    @model_validator(mode="after")
    def _who_starts_servers_again(self) -> "Server":
        if self.reload == "restart" and (self.urls or not self.service or self.model):
            raise ValueError("reload: restart needs servers of a service, without urls and model")
        return self

    @model_validator(mode="after")
    def _one_process_loads_weights(self) -> "Server":
        if self.reload and self.client_processes > 1:
            raise ValueError("client_processes: one alone can have servers load weights (reload)")
        return self

    @model_validator(mode="after")
    def _plain_urls(self) -> "Server":
        if not self.urls and not self.service:
            raise ValueError("urls or service must be given")
        for number, url in enumerate(self.urls, start=1):
            if wrong := url_fault(url):
                raise ValueError(f"urls: number {number} {wrong}")
        return self


class Engine(BaseModel):
    """How text is generated: by ``transformers`` in this process, or by servers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: Positive = 32
    """Requests of one part file; in this process, also the sequences generated together."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the model in this process."""
    server: Server | None = None
    """None: the engine runs in this process."""

    @model_validator(mode="after")
    def _is_one_engine(self) -> "Engine":
        given = [name for name, value in self if isinstance(value, BaseModel)]
        if len(given) > 1:
            raise ValueError(f"give one of {', '.join(given)}")
        return self

    @property
    def name(self) -> str:
        """The engine's name in ``engines.open``: that of the block of settings that is given."""
        given = (name for name, value in self if isinstance(value, BaseModel))
        return next(given, "transformers")

    @property
    def in_process(self) -> bool:
        """Whether the model runs in the stage's own process, and so needs its GPU."""
        return self.name == "transformers"

    @property
    def own_template(self) -> bool:
        """Whether servers apply their own chat template, in place of this program."""
        return self.server is not None and self.server.api == "chat"


class Launch(BaseModel):
    """Number of ranks of a Megatron program, and its parallel layout."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_ranks: Positive = 1
    """Processes; on GPUs, one for each."""
    tensor_parallel: Positive = 1
    """Ranks that divide every layer's matrices among themselves."""
    pipeline_parallel: Positive = 1
    """Ranks that divide the layers among themselves."""
    virtual_pipeline: Positive = 1
    """Model chunks of a pipeline stage, each of consecutive layers; 1: not interleaved."""
    first_stage_layers: Positive | None = None
    """Layers of the first pipeline stage; without it, as many as the others."""
    last_stage_layers: Positive | None = None
    """Layers of the last pipeline stage; without it, as many as the others."""
    context_parallel: Positive = 1
    """Ranks that divide the positions of every document among themselves."""
    expert_parallel: Positive = 1
    """Ranks that share a layer's experts; they are data- and context-parallel ranks."""
    distributed_optimizer: bool = False
    """Whether the data-parallel ranks divide the optimizer's state among themselves."""

    @model_validator(mode="after")
    def _divides(self) -> "Launch":
        row_ranks = self.tensor_parallel * self.pipeline_parallel * self.context_parallel
        if self.num_ranks % row_ranks:
            raise ValueError(
                f"num_ranks {self.num_ranks} is no multiple of tensor_parallel x "
                f"pipeline_parallel x context_parallel = {row_ranks}"
            )
        sharing = self.num_ranks // (self.tensor_parallel * self.pipeline_parallel)
        if sharing % self.expert_parallel:
            raise ValueError(
                f"expert_parallel {self.expert_parallel} does not divide the {sharing} data- and "
                "context-parallel ranks (num_ranks over tensor_parallel x pipeline_parallel)"
            )
        if self.virtual_pipeline > 1 and self.pipeline_parallel == 1:
            raise ValueError("virtual_pipeline > 1 needs pipeline_parallel > 1")
        uneven = (self.first_stage_layers, self.last_stage_layers) != (None, None)
        if uneven and self.pipeline_parallel == 1:
            raise ValueError("first_stage_layers and last_stage_layers need pipeline_parallel > 1")
        return self
