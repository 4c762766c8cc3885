"""Chat templates in the manner of the model families that people tune, written for these tests.

Each prints what is peculiar to its family: how turns are marked, whether the system prompt is taken, what the last turn
has that earlier ones lack, what becomes of thinking, whether the date is printed, how tools are called.
"""

_GENERATE = "{%% if add_generation_prompt %%}%s{%% endif %%}"


def _turns(before: str, after: str, generate: str, start: str = "", content: str = "m.content") -> str:
    """A template that prints each turn between two texts; in `before` and `after`, ROLE is the turn's role."""
    before, after = (text.replace("ROLE", "{{ m.role }}") for text in (before, after))
    body = "{% for m in messages %}" + before + "{{ " + content + " }}" + after + "{% endfor %}"
    return start + body + _GENERATE % generate


_DATE = "{{ strftime_now('%d %b %Y') }}"
_ANSWER = "m.content.split('</think>')[-1].lstrip('\\n')"
_CHATML = "<|im_start|>ROLE\n"
_ASSISTANT = "<|im_start|>assistant\n"
_CALLS = "{% for c in m.tool_calls or [] %}\n<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}"
_REFUSE_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"

FAMILIES = {
    "chatml": _turns(_CHATML, "<|im_end|>\n", _ASSISTANT),
    "qwen2": _turns(
        "{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}" + _CHATML,
        "<|im_end|>\n",
        _ASSISTANT,
    ),
    "qwen2.5 with tools": (
        "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
        + _turns(
            _CHATML.replace("ROLE", "{{ 'user' if m.role == 'tool' else m.role }}"), _CALLS + "<|im_end|>\n", _ASSISTANT
        )
    ),
    "qwen3": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% set thought = m.reasoning_content or (m.content.split('</think>')[0].split('<think>')[-1].strip('\\n')"
        " if '</think>' in m.content else '') %}"
        "{% if loop.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ "
        + _ANSWER
        + " }}"
        + _CALLS
        + "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        + _GENERATE % _ASSISTANT
    ),
    "qwen3 thinking": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}{{ "
        + _ANSWER
        + " }}{% elif m.role == 'assistant' and '</think>' not in m.content %}<think>\n\n</think>\n\n"
        "{{ m.content }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        + _GENERATE
        % (_ASSISTANT + "<think>\n")
    ),
    "qwen3 without thinking": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and loop.last and '</think>' not in m.content %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}" + _GENERATE % (_ASSISTANT + "<think>\n\n</think>\n\n")
    ),
    "deepseek r1": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
        "{% elif m.role == 'user' %}<|User|>{{ m.content }}{% else %}<|Assistant|>{{ "
        + _ANSWER.replace(".lstrip", ".lstrip")
        + " }}<|end|>{% endif %}{% endfor %}"
        + _GENERATE % "<|Assistant|><think>\n"
    ),
    "deepseek v2": _turns(
        "{% if m.role == 'user' %}User: {% elif m.role == 'assistant' %}Assistant: {% endif %}",
        "{% if m.role == 'assistant' %}{{ eos_token }}{% else %}\n\n{% endif %}",
        "Assistant:",
        "{{ bos_token }}",
    ),
    "llama 2": (
        "{% if messages[0].role == 'system' %}{% set s = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
        "{% set turns = messages[1:] %}{% else %}{% set s = '' %}{% set turns = messages %}{% endif %}"
        "{% for m in turns %}{% if m.role == 'user' %}{{ bos_token }}[INST] "
        "{{ (s if loop.first else '') + m.content.strip() }} [/INST]"
        "{% else %} {{ m.content.strip() }} {{ eos_token }}{% endif %}{% endfor %}"
    ),
    "llama 3": _turns(
        "<|start_header_id|>ROLE<|end_header_id|>\n\n",
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "{{ bos_token }}",
        "m.content | trim",
    ),
    "llama 3.2": _turns(
        "<|header|>ROLE<|/header|>\n\n",
        "<|eot_id|>",
        "<|header|>assistant<|/header|>\n\n",
        "{{ bos_token }}<|header|>system<|/header|>\n\nToday Date: " + _DATE + "<|eot_id|>",
        "m.content | trim",
    ),
    "mistral v1": _REFUSE_SYSTEM
    + (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "mistral v3": _REFUSE_SYSTEM
    + (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
        "{% elif m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}{{ raise_exception('nine characters') }}"
        "{% endif %}[TOOL_RESULTS] {{ m.content }}[/TOOL_RESULTS]"
        "{% elif m.tool_calls %}[TOOL_CALLS] "
        "{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}{{ eos_token }}"
        "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "mistral small": (
        "{{ bos_token }}{% if messages[0].role != 'system' %}[SYSTEM_PROMPT]Today is {{ strftime_now('%Y-%m-%d') }}."
        "[/SYSTEM_PROMPT]{% endif %}{% for m in messages %}"
        "{% if m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]"
        "{% elif m.role == 'user' %}[INST]{{ m.content }}[/INST]"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "gemma": _REFUSE_SYSTEM
    + _turns(
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n",
        "<end_of_turn>\n",
        "<start_of_turn>model\n",
        "{{ bos_token }}",
        "m.content | trim",
    ),
    "gemma 3": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set p = messages[0].content + '\n\n' %}"
        "{% set turns = messages[1:] %}{% else %}{% set p = '' %}{% set turns = messages %}{% endif %}"
        "{% for m in turns %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ p if loop.first else '' }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        + _GENERATE
        % "<start_of_turn>model\n"
    ),
    "phi 3": _turns("<|ROLE|>\n", "<|end|>\n", "<|assistant|>\n"),
    "phi 4": _turns("<|im_start|>ROLE<|im_sep|>", "<|im_end|>", "<|im_start|>assistant<|im_sep|>"),
    "zephyr": _turns("<|ROLE|>\n", "{{ eos_token }}\n", "<|assistant|>\n"),
    "vicuna": _turns(
        "{% if m.role == 'user' %}USER: {% elif m.role == 'assistant' %}ASSISTANT: {% endif %}",
        "{% if m.role == 'assistant' %}{{ eos_token }}{% else %} {% endif %}",
        "ASSISTANT:",
    ),
    "command r": _turns(
        "<|START_OF_TURN_TOKEN|><|{{ {'assistant': 'CHATBOT', 'user': 'USER', 'system': 'SYSTEM'}[m.role] }}_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        "{{ bos_token }}",
        "m.content.strip()",
    ),
    "granite": _turns(
        "<|start_of_role|>ROLE<|end_of_role|>",
        "<|end_of_text|>\n",
        "<|start_of_role|>assistant<|end_of_role|>",
        "<|start_of_role|>system<|end_of_role|>Today's Date: {{ strftime_now('%B %d, %Y') }}.<|end_of_text|>\n",
    ),
    "falcon": _turns("{{ 'Falcon' if m.role == 'assistant' else m.role | capitalize }}: ", "\n\n", "Falcon:"),
    "olmo": _turns(
        "<|ROLE|>\n",
        "{% if m.role == 'assistant' %}{{ eos_token }}{% if not loop.last %}\n{% endif %}{% else %}\n{% endif %}",
        "<|assistant|>\n",
        "{{ bos_token }}",
    ),
    "smollm 3": (
        "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
        "{% generation %}{{ m.content }}<|im_end|>\n{% endgeneration %}{% else %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}" + _GENERATE % _ASSISTANT
    ),
    "glm 4": _turns("<|ROLE|>\n", "", "<|assistant|>\n", "[gMASK]<sop>"),
    "exaone": _turns("[|ROLE|]", "{% if m.role == 'user' %}\n{% else %}[|endofturn|]\n{% endif %}", "[|assistant|]"),
    "nemotron": _turns(
        "<extra_id_1>{{ {'assistant': 'Assistant', 'user': 'User', 'system': 'System'}[m.role] }}\n",
        "\n",
        "<extra_id_1>Assistant\n",
        "",
        "m.content.strip()",
    ),
    "gpt-oss": _turns(
        "<|start|>ROLE{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>",
        "{{ '<|return|>' if m.role == 'assistant' and loop.last else '<|end|>' }}",
        "<|start|>assistant",
        "<|start|>system<|message|>Current date: {{ strftime_now('%Y-%m-%d') }}<|end|>",
    ),
    "internlm": _turns("<|ROLE|>:", "<eoh>\n", "<|assistant|>:"),
    "minicpm": _turns("{{ '<用户>' if m.role == 'user' else '' }}", "{{ '<AI>' if m.role == 'user' else '' }}", ""),
    "openchat": _turns(
        "GPT4 Correct {{ m.role | title }}: ", "<|end_of_turn|>", "GPT4 Correct Assistant:", "{{ bos_token }}"
    ),
    "solar": _turns("### {{ m.role | capitalize }}:\n", "\n\n", "### Assistant:\n"),
    "llava": (
        "{% for m in messages %}{{ m.role | upper }}: "
        "{% for part in m.content %}{{ part.text }}{% endfor %}\n{% endfor %}" + _GENERATE % "ASSISTANT:"
    ),
    "without system": (
        "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        + _GENERATE % "<|assistant|>"
    ),
}

STRIPPING = {"llama 2", "llama 3", "llama 3.2", "gemma", "gemma 3", "command r", "nemotron"}
"""Families whose templates strip the texts."""

NOT_SHARING = {"qwen3", "qwen3 thinking", "qwen3 without thinking"}
"""Families that print a turn in another way once it is history."""

DATED = {"llama 3.2", "mistral small", "granite", "gpt-oss"}
"""Families that print today's date."""

WITH_TOOLS = {"qwen2.5 with tools", "qwen3", "mistral v3"}
"""Families that print calls of tools."""
