"""The settings of every stage kind, typed.  Imports no torch, so that a plan is read in no time.

A field of type :data:`Input` names another stage of the pipeline, or a path of the user's.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Reference:
    """Marks a field as an input: a stage's name or a path."""


Input = Annotated[str, Reference()]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
OnMalformed = Literal["stop", "set_aside"]


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
        """What determines the result, as JSON values: every setting but the layout of processes.

        A stage may go on under another layout than it began with.
        """
        return self.model_dump(mode="json", exclude={"launch"})


class ThinkingFormat(BaseModel):
    """Where a model's thinking part begins and ends in its text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    open: str = "<think>\n"
    """What precedes the thinking part; empty: the text begins with it."""
    close: str = Field(default="\n</think>\n\n", min_length=1)
    """What stands between the thinking part and the answer.  Whitespace at the ends of both does
    not matter when a text is read; it is written when the teacher is to continue one."""


class Engine(BaseModel):
    """How text is generated: the in-process ``transformers`` engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: Positive = 32
    """Sequences generated together."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"


class ImportGguf(Settings):
    """A GGUF file that a Python package carries, dequantised to a Hugging Face folder."""

    kind: Literal["import_gguf"]
    package: str
    file: str
    """The GGUF file's name inside the package."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"


class RandomModel(Settings):
    """A small Llama-shaped Hugging Face model with random weights and a byte-level tokenizer."""

    kind: Literal["random_model"]
    num_layers: Positive
    hidden_size: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    intermediate_size: Positive
    alphabet: str = Field(min_length=1)
    """The ASCII characters that the tokenizer knows besides its special tokens, one token each."""
    max_position_embeddings: Positive = 1024
    initializer_std: float = 0.02


class PruneLayers(Settings):
    """A student made from a model by removing layers, the rest evenly spaced."""

    kind: Literal["prune_layers"]
    model: Input
    num_layers_removed: Positive
    num_key_value_heads: Positive | None = None
    """More than the model has, for a layout that does not divide the model's: the added heads are
    zero and stay so.  None: the model's."""


class ImportHf(Settings):
    """Hugging Face folder to Megatron ``torch_dist`` checkpoint."""

    kind: Literal["import_hf"]
    model: Input


class ReasoningGymTask(BaseModel):
    """One generator of the ``reasoning-gym`` package."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generator: str
    size: Positive
    config: dict[str, Any] = {}


class MakePrompts(Settings):
    """Tasks from reasoning-gym and prompts from files, with a held-out part."""

    kind: Literal["make_prompts"]
    files: list[Input] = []
    """JSON lines or Parquet of Prompt records."""
    tasks: list[ReasoningGymTask] = []
    heldout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    on_malformed: OnMalformed = "stop"

    @model_validator(mode="after")
    def _some(self) -> "MakePrompts":
        if not self.files and not self.tasks:
            raise ValueError("give files, tasks or both")
        return self


class SampleTeacher(Settings):
    """Several responses a prompt from the teacher, at every temperature."""

    kind: Literal["sample_teacher"]
    model: Input
    prompts: Input
    temperatures: list[Annotated[float, Field(gt=0)]] = Field([0.6, 1.0], min_length=1)
    num_candidates: Positive = 4
    """Responses a prompt and temperature."""
    max_new_tokens: Positive
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    system_prompt: str | None = None
    few_shot: Input | None = None
    """JSON lines of Message records put before the prompt, for the teacher's eyes only."""
    stop: list[str] = []
    """Texts that end a response; the text ends before them."""
    engine: Engine = Engine()
    on_malformed: OnMalformed = "stop"


class Repetition(BaseModel):
    """Bounds of the repetition filter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_repeated_lines: Positive = 4
    """Times that one line (of at least 3 words) may occur."""
    max_repeated_sentences: Positive = 4
    """Times that one sentence (of at least 3 words) may occur."""
    ngram_words: Positive = 8
    max_ngram_count: Positive = 8
    """Times that one run of ``ngram_words`` words may occur."""


class FilterResponses(Settings):
    """Quality filters with named reasons, over responses and over continuations."""

    kind: Literal["filter_responses"]
    responses: list[Input] = Field(min_length=1)
    student: Input
    """Hugging Face folder; its tokenizer measures the length."""
    thinking: ThinkingFormat = ThinkingFormat()
    """The teacher's delimiters; what is kept is normalised to ``<think>`` ... ``</think>``."""
    max_length: Positive
    """Longest prompt + response, in student tokens."""
    system_prompt: str | None = None
    """As in training: it counts towards the length."""
    repetition: Repetition = Repetition()
    on_malformed: OnMalformed = "stop"


class Launch(BaseModel):
    """Processes of a Megatron program on this machine, and its parallel layout."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_ranks: Positive = 1
    tensor_parallel: Positive = 1
    pipeline_parallel: Positive = 1

    @model_validator(mode="after")
    def _divides(self) -> "Launch":
        model_ranks = self.tensor_parallel * self.pipeline_parallel
        if self.num_ranks % model_ranks:
            raise ValueError(
                f"num_ranks {self.num_ranks} is no multiple of tensor_parallel x "
                f"pipeline_parallel = {model_ranks}"
            )
        return self


class ScoreStudent(Settings):
    """Student log-probs of every response token, by Megatron's forward pass."""

    kind: Literal["score_student"]
    responses: Input
    model: Input
    """Hugging Face folder: architecture and tokenizer."""
    checkpoint: Input
    """Megatron checkpoint of the weights."""
    split: Literal["train", "heldout", "all"] = "all"
    system_prompt: str | None = None
    few_shot: Input | None = None
    """JSON lines of Message records put before the prompt: they show a student that has not learnt
    the form of the responses what it is, so that the scores tell of the content."""
    batch_tokens: Positive = 4096
    """Padded tokens of one forward pass."""
    dtype: Literal["bfloat16", "float32"] = "float32"
    launch: Launch = Launch()
    on_malformed: OnMalformed = "stop"


class SelectDas(Settings):
    """Divergence-aware sampling: per prompt and temperature, the candidates that teach most."""

    kind: Literal["select_das"]
    responses: Input
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.1
    strategy: Literal["count", "ratio", "longest", "random", "fewest"] = "count"
    keep: Positive = 1
    """Candidates kept a prompt and temperature."""
    on_malformed: OnMalformed = "stop"


class PreprocessText(Settings):
    """Plain text to packed indexed data, loss on every token."""

    kind: Literal["preprocess_text"]
    model: Input
    """Hugging Face folder of the tokenizer."""
    packages: dict[str, str] = {}
    """Text files that Python packages carry: package -> path inside it."""
    files: list[Input] = []
    seq_length: Positive
    document_tokens: Positive = 256
    """Length that texts are cut into."""
    max_tokens: Positive | None = None


class PreprocessData(Settings):
    """Responses to packed indexed data: tokens and loss mask, aligned."""

    kind: Literal["preprocess_data"]
    model: Input
    responses: Input
    temperature: float | None = None
    """Only responses of this temperature; None: all."""
    split: Literal["train", "heldout", "all"] = "train"
    mix: Input | None = None
    """Responses mixed in (off-policy data beside mixed-policy data)."""
    mix_ratio: Annotated[float, Field(ge=0)] = 20.0 / 7.7
    """Responses of ``mix`` per response of ``responses`` (the report's ablation: 20K to 7.7K)."""
    system_prompt: str | None = None
    mask_student_prefix: bool = False
    """Leave the student's prefix out of the loss (the report found this worse)."""
    seq_length: Positive
    on_malformed: OnMalformed = "stop"


class Train(Settings):
    """One training stage through Megatron's ``pretrain()``."""

    kind: Literal["train"]
    model: Input
    """Hugging Face folder: architecture and tokenizer."""
    checkpoint: Input
    """Weights to start from: an imported checkpoint or an earlier training stage."""
    data: Input
    heldout: Input | None = None
    """Data whose loss is printed during training."""
    epochs: Annotated[float, Field(gt=0)] = 6
    global_batch_size: Positive = 64
    """Packed rows a step; a micro-batch is one row."""
    lr: Annotated[float, Field(gt=0)] = 5e-5
    min_lr: Annotated[float, Field(ge=0)] = 1e-5
    lr_decay_style: Literal["cosine", "constant", "linear"] = "cosine"
    warmup_fraction: Fraction = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    adam_beta1: Fraction = 0.9
    adam_beta2: Fraction = 0.95
    adam_eps: Annotated[float, Field(gt=0)] = 1e-8
    clip_grad: Annotated[float, Field(ge=0)] = 1.0
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    save_interval: Positive | None = None
    """Iterations between checkpoints; None: at the end only."""
    eval_interval: Positive | None = None
    """Iterations between held-out evaluations; None: at the end only."""
    launch: Launch = Launch()
    megatron: dict[str, Any] = {}
    """Further Megatron flags by name, e.g. ``{recompute-activations: true}``."""


class ExportHf(Settings):
    """Megatron checkpoint to a Hugging Face folder."""

    kind: Literal["export_hf"]
    model: Input
    """Hugging Face folder that the student came from: config, tokenizer, chat template."""
    checkpoint: Input


class VerifyConversion(Settings):
    """Logits of the Megatron checkpoint against ``transformers``, fp32, on real text."""

    kind: Literal["verify_conversion"]
    model: Input
    """The exported Hugging Face folder."""
    checkpoint: Input
    responses: Input
    """Records whose outputs are the text."""
    num_tokens: Positive = 512
    tolerance: Annotated[float, Field(gt=0)] = 1e-3


class RollOutStudent(Settings):
    """The student answers training prompts, capped at a multiple of the teacher's length."""

    kind: Literal["roll_out_student"]
    model: Input
    responses: Input
    """The selected responses: their prompts are rolled out, their lengths set the caps."""
    cap_ratio: Annotated[float, Field(gt=0)] = 1.5
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    system_prompt: str | None = None
    max_prompts: Positive | None = None
    engine: Engine = Engine()
    on_malformed: OnMalformed = "stop"


class ContinueTeacher(Settings):
    """Rollouts cut beyond half, continued by the teacher."""

    kind: Literal["continue_teacher"]
    model: Input
    rollouts: Input
    cut_from: Fraction = 0.5
    """Earliest cut, as a share of the rollout's tokens."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    max_new_tokens: Positive
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    thinking: ThinkingFormat = ThinkingFormat()
    """The teacher's delimiters."""
    system_prompt: str | None = None
    few_shot: Input | None = None
    stop: list[str] = []
    engine: Engine = Engine()
    on_malformed: OnMalformed = "stop"


class Evaluate(Settings):
    """Accuracy on the held-out prompts that carry a reference answer."""

    kind: Literal["evaluate"]
    prompts: Input
    models: dict[str, Input] = Field(min_length=1)
    """Hugging Face folders by the name that the report shows."""
    num_samples: Positive = 1
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0: greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Positive
    system_prompt: str | None = None
    engine: Engine = Engine()
    on_malformed: OnMalformed = "stop"


class Report(Settings):
    """``report.html`` and ``report.json`` of a run."""

    tells_of_run: ClassVar[bool] = True

    kind: Literal["report"]
    title: str
    heldout_scores: dict[str, Input] = Field(min_length=1)
    """score_student stages by what they show: before, stage1, stage2, stage3."""
    sample: Input
    filters: list[Input] = []
    select: Input
    train: list[Input] = []
    rollouts: Input | None = None
    continuations: Input | None = None
    evaluate: Input | None = None
    verify: Input | None = None
    export: Input


StageSettings = Annotated[
    ImportGguf
    | RandomModel
    | PruneLayers
    | ImportHf
    | MakePrompts
    | SampleTeacher
    | FilterResponses
    | ScoreStudent
    | SelectDas
    | PreprocessText
    | PreprocessData
    | Train
    | ExportHf
    | VerifyConversion
    | RollOutStudent
    | ContinueTeacher
    | Evaluate
    | Report,
    Field(discriminator="kind"),
]
