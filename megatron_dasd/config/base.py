"""What the settings of all stage kinds share, and how a stage kind is declared.

A stage kind is a subclass of :class:`Settings` with a ``kind`` and a :class:`Stage`.  Declaring it
registers it; ``config.stages`` finds it by its kind.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.main import IncEx


class Reference:
    """Marks a field as an input: a stage's name or a path."""


class Execution:
    """Marks a setting that says how the work is done and leaves the result as it is.

    It is no part of a stage's identity, at any depth of nested settings.
    """


Input = Annotated[str, Reference()]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
OnMalformed = Literal["stop", "set_aside"]


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
    """Whether several tasks of its Slurm job share the work, as one MPI job."""
    in_rounds: bool = False
    """Whether it may be a stage of an on-policy round."""
    describes_run: bool = False
    """Whether the manifests of all stages that it depends on, wall times included, are its inputs
    too."""


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
        return self.model_dump(mode="json", exclude=_execution_settings(self))

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
    def services(self) -> list[str]:
        """The services that the stage asks, or stages within it; each once."""
        servers = (model for model in _models(self) if isinstance(model, Server))
        return list(dict.fromkeys(server.service for server in servers if server.service))


_KINDS: dict[str, type[Settings]] = {}


def registered_kinds() -> dict[str, type[Settings]]:
    """Settings classes by kind, of the modules imported so far; see ``config.stages``."""
    return dict(_KINDS)


def _execution_settings(value: object) -> IncEx:
    """The settings marked as execution in a model and in all that it holds, as pydantic excludes
    them: by field, key or index, True or what is excluded below."""
    found: dict[str | int, IncEx | bool] = {}
    for name, inner in _entries(value):
        if isinstance(value, BaseModel) and _is_execution(type(value), str(name)):
            found[name] = True
        elif below := _execution_settings(inner):
            found[name] = below
    return cast(IncEx, found)


def _is_execution(model: type[BaseModel], name: str) -> bool:
    return any(isinstance(mark, Execution) for mark in model.model_fields[name].metadata)


def _models(value: object) -> Iterator[BaseModel]:
    """A model and all models within it."""
    if isinstance(value, BaseModel):
        yield value
    for _, inner in _entries(value):
        yield from _models(inner)


def _entries(value: object) -> Iterator[tuple[str | int, object]]:
    """What a model, mapping or list holds, by field, key or index."""
    if isinstance(value, BaseModel):
        yield from ((name, getattr(value, name)) for name in type(value).model_fields)
    elif isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


class ThinkingFormat(BaseModel):
    """Where a model's thinking part begins and ends in its text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["delimiters", "harmony"] = "delimiters"
    """``harmony``: the channels of gpt-oss; ``open`` and ``close`` are then its own."""
    open: str = "<think>\n"
    """What precedes the thinking part; empty: the text begins with it."""
    close: str = Field(default="\n</think>\n\n", min_length=1)
    """What stands between the thinking part and the answer.  Whitespace at the ends of both does
    not matter when a text is read; it is written when the teacher is to continue one."""

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


class Server(BaseModel):
    """OpenAI-compatible servers (vLLM, SGLang, a hosted one) that run one model; docs/sampling.md.

    Another set of servers, or another way to reach them, leaves a stage's result as it is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    urls: Annotated[list[str], Execution()] = []
    """Base URLs, e.g. ``http://node7:8000/v1``; requests go to the one with the fewest."""
    service: Annotated[str | None, Execution()] = None
    """Of a submitted pipeline, the name of one of ``cluster.servers``: its servers are found when
    they have started."""
    api: Literal["completions", "chat"] = "completions"
    """``completions``: the chat template of ``model`` is applied here; ``chat``: the server's."""
    model: str | None = None
    """The model's name at the servers; None: the only one there."""
    extra_body: dict[str, Any] = {}
    """Fields added to every request, e.g. ``{top_k: 40}``.  ``null`` leaves one of the program's
    own out: ``{return_token_ids: null}`` for servers that refuse what they do not know."""
    reload: Annotated[Literal["vllm", "sglang", "restart"] | None, Execution()] = None
    """How the servers are given the weights of the stage's model, if they have others: asked to
    load them from its folder, or, servers of a ``service``, started again.  None: they run it."""
    send_seed: bool = True
    """Whether each request carries its seed; vLLM draws without seeds faster."""
    rescore_by: Literal["prompt_logprobs", "echo"] = "prompt_logprobs"
    """How log-probs of a given text are asked for: vLLM's field, or the older ``echo``."""
    api_key_env: Annotated[str | None, Execution()] = None
    """Environment variable that holds the API key; None: no key is sent."""
    concurrency: Annotated[Positive, Execution()] = 256
    """Requests in flight, over all servers."""
    deadline_seconds: Annotated[float, Field(gt=0), Execution()] = 3600.0
    """Of one attempt at a request."""
    max_attempts: Annotated[Positive, Execution()] = 6
    """Attempts at a request until it is set aside.  Those that reached no server or were told to
    come later (429) do not count."""
    patience_seconds: Annotated[float, Field(ge=0), Execution()] = 600.0
    """How long to wait while no server answers, and for one request that is told to come later."""
    probe: Annotated[bool, Execution()] = True
    """Whether sampling begins with a check that the log-probs are of the untempered
    distribution."""

    @model_validator(mode="after")
    def _leaves_own_fields(self) -> "Server":
        for name in _OWN_FIELDS:
            if self.extra_body.get(name) is not None:
                raise ValueError(f"extra_body: {name} is set by the program")
        return self

    @model_validator(mode="after")
    def _who_starts_servers_again(self) -> "Server":
        if self.reload == "restart" and (self.urls or not self.service or self.model):
            raise ValueError("reload: restart is of servers of a service, without urls and model")
        return self

    @model_validator(mode="after")
    def _plain_urls(self) -> "Server":
        if not self.urls and not self.service:
            raise ValueError("urls or service must be given")
        for number, url in enumerate(self.urls, start=1):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"urls: number {number} is no http:// or https:// address")
            if parts.username or parts.password or parts.query:
                raise ValueError(
                    f"urls: number {number} holds a name, password or query; give the key by "
                    "api_key_env"
                )
        return self


class Engine(BaseModel):
    """How text is generated: by ``transformers`` in this process, or by servers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: Positive = 32
    """Requests of one part of the result; in this process, sequences generated together."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the model in this process."""
    server: Server | None = None
    """None: in this process."""

    @property
    def own_template(self) -> bool:
        """Whether servers apply their own chat template, and none is applied here."""
        return self.server is not None and self.server.api == "chat"


class Launch(BaseModel):
    """Processes of a Megatron program on this machine, and its parallel layout."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_ranks: Positive = 1
    tensor_parallel: Positive = 1
    pipeline_parallel: Positive = 1
    virtual_pipeline: Positive = 1
    """Model chunks of a pipeline stage, each of consecutive layers; 1: not interleaved."""
    context_parallel: Positive = 1
    """Ranks that divide the positions of every document among themselves."""
    expert_parallel: Positive = 1
    """Ranks that share a layer's experts; taken from among the data- and context-parallel ones."""
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
            raise ValueError("virtual_pipeline wants pipeline_parallel > 1")
        return self
