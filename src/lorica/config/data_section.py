"""The section on the training rows: where they come from, what they hold, and what of them is trained."""

from typing import Annotated, Any, Literal

from pydantic import Field

from lorica.config.section import Section, Text

Format = Literal[
    "auto", "messages", "sharegpt", "alpaca", "prompt-completion", "text", "tokens", "preference", "kto"
]  # fmt: skip
RowField = Literal[
    "messages", "conversations", "prompt", "completion", "instruction", "input", "output", "system", "history", "text",
    "input_ids", "labels", "attention_mask", "chosen", "rejected", "label", "tools", "weight", "train",
]  # fmt: skip
Columns = dict[RowField, Text]
SampleBy = Literal["line", "paragraph", "document"]
Role = Literal["system", "developer", "user", "assistant", "tool"]
RoleWeight = Annotated[float, Field(ge=0, le=1000)]
Severity = Literal["error", "warn", "note", "ignore"]
TemplateValue = bool | Annotated[float, Field(ge=-1e9, le=1e9)] | str | list[str]


class SourceConfig(Section):
    """One of several sources; what it leaves out follows the data section."""

    path: Text = Field(description="File, folder, pattern, address or hub id")
    weight: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0, description="How often an epoch holds each row: 2 is twice, 0.5 a fixed half of the rows"
    )
    format: Format | None = Field(None, description="What a row holds")
    columns: Columns | None = Field(None, description="Where the fields of a row come from")
    sample_by: SampleBy | None = Field(None, description="How a text file is cut into rows")
    name: Text | None = Field(None, description="Configuration of a hub data set")
    split: Text | None = Field(None, description="Split of a hub data set")
    revision: Text | None = Field(None, description="Branch, tag or commit of a hub data set")


Sources = Annotated[list[Text | SourceConfig], Field(min_length=1)]


class DataConfig(Section):
    """The training rows."""

    path: Text | Sources = Field(
        description="File, folder, pattern (`rows/**/*.jsonl`), address or hub id of the rows, or a list of them; an"
        " entry of the list may be a mapping with options of its own"
    )
    format: Format = Field("auto", description="What a row holds; auto decides by the fields of the first row")
    columns: Columns = Field(
        default_factory=dict,
        description="Where the fields of a row come from, if named otherwise: a column, or a Jinja expression such as"
        ' `"{{ question }}\\n"`',
    )
    sample_by: SampleBy | None = Field(
        None, description="How a text file is cut into rows; null is a line a row, and a whole .md file"
    )
    name: Text | None = Field(None, description="Configuration of a hub data set; null is its only one")
    split: Text | None = Field(
        None, description="Split of a hub or saved data set; null is train, or the only one there is"
    )
    revision: Text | None = Field(None, description="Branch, tag or commit of a hub data set; null is its main branch")
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="What a row that cannot be read does: stop the run, or be left out and counted"
    )
    train_on: Literal["assistant", "all", "last"] = Field(
        "assistant",
        description="What is trained: answers of the assistant (completions), prompts too, or only the last answer",
    )
    role_weights: dict[Role, RoleWeight] = Field(
        default_factory=dict, description="Loss weight of messages by role, in place of what train_on gives"
    )
    reasoning: Literal["train", "keep", "drop"] = Field(
        "train", description="Reasoning in answers: trained, kept as context with no loss, or removed"
    )
    max_length: Annotated[int, Field(ge=2, le=10**7)] | None = Field(
        None, description="Longest row, in tokens; null is what the model can take"
    )
    too_long: Literal["error", "drop", "truncate", "truncate_left", "truncate_right", "split"] = Field(
        "error", description="What happens to a row longer than max_length; truncate is truncate_right"
    )
    chat_template: Text | None = Field(
        None, description="Jinja file that renders conversations; null is the tokenizer's own template"
    )
    chat_template_kwargs: dict[Text, TemplateValue] = Field(
        default_factory=dict, description="Values for the chat template, such as `{enable_thinking: false}`"
    )
    gates: dict[Text, Severity] = Field(
        default_factory=dict,
        description="How grave a finding about the rows is, by its gate; an error stops the run. `lorica data gates`"
        " lists them",
    )

    @property
    def sources(self) -> list[SourceConfig]:
        """The sources, each complete: what an entry leaves out is what the section says."""
        entries = self.path if isinstance(self.path, list) else [self.path]
        listed = [entry if isinstance(entry, SourceConfig) else SourceConfig(path=entry) for entry in entries]
        return [self._complete(source) for source in listed]

    @property
    def paths(self) -> list[str]:
        """The path of each source."""
        return [source.path for source in self.sources]

    def _complete(self, source: SourceConfig) -> SourceConfig:
        left_out: dict[str, Any] = {
            key: getattr(self, key)
            for key in ("format", "columns", "sample_by", "name", "split", "revision")
            if getattr(source, key) is None
        }
        return source.model_copy(update=left_out)
