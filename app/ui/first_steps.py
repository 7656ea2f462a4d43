"""How to make the first response, for whoever looks at an empty list."""

from dataclasses import dataclass

from fastapi import Request

from app.domain.tenancy import Caller
from app.resources import Resources
from app.ui.addresses import base_url

_CURL = """\
curl {base}/responses \\
  -H "Content-Type: application/json" \\{key}
  -d '{{"model": "{model}", "input": "Hello"}}'"""

_PYTHON = """\
from openai import OpenAI

client = OpenAI(base_url="{base}", api_key={key})
response = client.responses.create(model="{model}", input="Hello")
print(response.output_text)"""

_CURL_CONVERSATION = """\
curl -X POST {base}/conversations{key}"""

_PYTHON_CONVERSATION = """\
from openai import OpenAI

client = OpenAI(base_url="{base}", api_key={key})
conversation = client.conversations.create()
client.responses.create(model="{model}", input="Hello", conversation=conversation.id)"""

_WILD = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """The same request, twice."""

    curl: str
    python: str


def of_response(request: Request, caller: Caller, it: Resources) -> FirstSteps:
    """With the address under which this server was reached, and a model that it serves."""
    return _steps(_CURL, _PYTHON, request, caller, it, glue=" \\")


def of_conversation(request: Request, caller: Caller, it: Resources) -> FirstSteps:
    """The same for a conversation."""
    return _steps(_CURL_CONVERSATION, _PYTHON_CONVERSATION, request, caller, it, glue="")


def _steps(
    curl: str, python: str, request: Request, caller: Caller, it: Resources, *, glue: str
) -> FirstSteps:
    base, model, has_key = base_url(request), _a_model(caller, it), caller.key_id is not None
    header = ' -H "Authorization: Bearer $HOLDFAST_API_KEY"' if has_key else ""
    if glue and has_key:
        header = f"\n {header}{glue}"
    key = 'os.environ["HOLDFAST_API_KEY"]' if has_key else '"unused"'
    code = python.format(base=base, model=model, key=key)
    return FirstSteps(
        curl.format(base=base, model=model, key=header), f"import os\n\n{code}" if has_key else code
    )


def _a_model(caller: Caller, it: Resources) -> str:
    """The default, or the first one that has a plain name; MODEL where every upstream has patterns alone."""
    patterns = (pattern for upstream in it.settings.effective_upstreams for pattern in upstream.models)
    plain = (name for name in patterns if not _WILD & set(name))
    names = [name for name in (it.settings.default_model, *plain) if name and caller.may_name(name)]
    return names[0] if names else "MODEL"
