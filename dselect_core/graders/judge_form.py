"""What an endpoint's judge is asked for: the prompt, what the request says of the reply, and how the reply is read.

A reply that ended by itself and holds no grade is asked once more, with what is wrong with it. Both count in tokens.
"""

from dataclasses import dataclass
from typing import Any

from dselect_core.graders import judge_criteria
from dselect_core.graders.judge_logprobs import read_yes_no
from dselect_core.graders.judge_prompt import JudgePrompt, prompt_of
from dselect_core.graders.judge_reply import HIGHEST, LOWEST, Read, faulty_answer, read_rating
from dselect_core.settings.grader_spec import GraderSpec

Chat = list[dict[str, str]]


@dataclass(frozen=True)
class JudgeForm:
    """read: the reply's answer. question: a small chat, whose answer shows that the endpoint works.

    schema: of the reply as JSON; None: it is one word, and the log-probabilities of its tokens are asked for.
    """

    prompt: JudgePrompt
    read: Read
    question: Chat
    schema: dict[str, Any] | None = None

    @property
    def logprobs(self) -> bool:
        """Whether the request asks for log-probabilities."""
        return self.schema is None

    @classmethod
    def of(cls, spec: GraderSpec) -> "JudgeForm":
        """The form that the settings of an endpoint ask for."""
        prompt = prompt_of(spec)
        assert prompt is not None
        if spec.scale == "probability":
            return cls(prompt, read_yes_no, _asked("Reply with this one word: yes"))
        if spec.criteria is None:
            question = _asked('Reply with this JSON object: {"rating": 3, "reason": "a test"}')
            return cls(prompt, read_rating, question, _RATED)
        schema = _object(dict.fromkeys(spec.criteria, _RATED))
        # The schema says the rest where the endpoint has it; any reply will do.
        return cls(prompt, judge_criteria.reader(spec), _asked("Reply with this JSON object: {}"), schema)

    def repair(self, chat: Chat, body: bytes, error: str) -> Chat | None:
        """The chat that asks once more after a reply without a grade; None where it would bring none either."""
        faulty = None if self.logprobs else faulty_answer(body)
        if faulty is None:
            return None
        wrong = f"That reply cannot be used: {error}.\n{self.prompt.reply.strip()}"
        return [*chat, {"role": "assistant", "content": faulty}, {"role": "user", "content": wrong}]


def _asked(text: str) -> Chat:
    return [{"role": "user", "content": text}]


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema as strict modes want it: every key is required, and there are no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_RATED = _object({
    "rating": {"type": "integer", "enum": list(range(LOWEST, HIGHEST + 1))},
    "reason": {"type": "string"},
})  # fmt: skip
