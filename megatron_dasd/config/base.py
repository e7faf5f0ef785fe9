"""What the settings of all stage kinds share.

A field of type :data:`Input` names another stage of the pipeline, or a path of the user's.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

_LONGEST_URL = 2048


class Reference:
    """Marks a field as an input: a stage's name or a path."""


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=128)]
"""Of a stage or a server; it is a folder's name too."""
Input = Annotated[str, Reference()]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
OnMalformed = Literal["stop", "set_aside"]


_REACHING = dict.fromkeys(
    (
        *("urls", "service", "api_key_env", "concurrency", "deadline_seconds"),
        *("max_attempts", "patience_seconds", "probe", "reload"),
    ),
    True,
)
"""Settings of a server that say how it is reached, not what it is asked."""
_OWN_FIELDS = (
    *("model", "prompt", "messages", "temperature", "top_p", "stop", "seed", "n", "stream"),
    *("max_tokens", "logprobs", "prompt_logprobs", "echo"),
)
"""Fields of a request that follow from other settings, or that the answers are read by."""
_HOW: Any = {
    "launch": True,
    "loader": True,
    "chunked_loss": True,
    "loss_gradients": True,
    "keep_checkpoints": True,
    "num_workers": True,
    "engine": {"server": _REACHING},
    "server": _REACHING,
}
"""Settings that say how the work is done, and leave the result as it is."""
_HOW_OF_ALL = _HOW | {"on_policy": {"stages": {"__all__": _HOW}}}
"""The same, of the stages within a stage too."""


class Settings(BaseModel):
    """What all stage kinds share: unknown settings are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tells_of_run: ClassVar[bool] = False
    """Whether the manifests of all stages that this one rests on, wall times included, are its
    inputs too."""

    kind: str
    """Which stage this is; each subclass has one name for itself."""
    seed: int | None = None
    """Default: the pipeline's."""

    def identity(self) -> dict[str, Any]:
        """What determines the result, as JSON values: every setting but those of how it is made.

        A stage may go on under another layout of processes, with another loader of the same rows
        or with other servers of the same model than it began with.
        """
        return self.model_dump(mode="json", exclude=_HOW_OF_ALL)

    @property
    def inner_stages(self) -> "Mapping[str, Settings]":
        """Stages that this one runs within itself, by name; they may read what it makes too."""
        return {}


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


def url_fault(url: str) -> str | None:
    """What is wrong with a server's base URL, without repeating it; None: nothing."""
    if len(url) > _LONGEST_URL or not url.isprintable() or " " in url or "\\" in url:
        return "is no http:// or https:// address"
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of the port, or of brackets
        sound = False
    if not sound:
        return "is no http:// or https:// address"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return "holds a name, password or query; give the key by api_key_env"
    return None


class Server(BaseModel):
    """OpenAI-compatible servers (vLLM, SGLang, a hosted one) that run one model; docs/sampling.md.

    Another set of servers, or another way to reach them, leaves a stage's result as it is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    urls: list[str] = []
    """Base URLs, e.g. ``http://node7:8000/v1``; requests go to the one with the fewest."""
    service: Name | None = None
    """Of a submitted pipeline, the name of one of ``cluster.servers``: its servers are found when
    they have started."""
    api: Literal["completions", "chat"] = "completions"
    """``completions``: the chat template of ``model`` is applied here; ``chat``: the server's."""
    model: str | None = None
    """The model's name at the servers; None: the only one there."""
    extra_body: dict[str, Any] = {}
    """Fields added to every request, e.g. ``{top_k: 40}``.  ``null`` leaves one of the program's
    own out: ``{return_token_ids: null}`` for servers that refuse what they do not know."""
    reload: Literal["vllm", "sglang", "restart"] | None = None
    """How the servers are given the weights of the stage's model, if they have others: asked to
    load them from its folder, or, servers of a ``service``, started again.  None: they run it."""
    send_seed: bool = True
    """Whether each request carries its seed; vLLM draws without seeds faster."""
    rescore_by: Literal["prompt_logprobs", "echo"] = "prompt_logprobs"
    """How log-probs of a given text are asked for: vLLM's field, or the older ``echo``."""
    api_key_env: str | None = None
    """Environment variable that holds the API key; None: no key is sent."""
    concurrency: Positive = 256
    """Requests in flight, over all servers."""
    deadline_seconds: Annotated[float, Field(gt=0)] = 3600.0
    """Of one attempt at a request."""
    max_attempts: Positive = 6
    """Attempts at a request until it is set aside.  Those that reached no server or were told to
    come later (429) do not count."""
    patience_seconds: Annotated[float, Field(ge=0)] = 600.0
    """How long to wait while no server answers, and for one request that is told to come later."""
    probe: bool = True
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
            if wrong := url_fault(url):
                raise ValueError(f"urls: number {number} {wrong}")
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
    def name(self) -> str:
        """The engine's name in ``engines.open``: that of the block of settings that is given."""
        given = (name for name, value in self if isinstance(value, BaseModel))
        return next(given, "transformers")

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
