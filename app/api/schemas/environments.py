"""Where shell commands and code run: containers, their skills and their networks."""

from typing import Annotated, Literal, Required

from pydantic import Field
from typing_extensions import TypedDict

from app.api.schemas.bounds import Many, NonEmpty, Strings
from app.api.schemas.unions import OneOf

MemoryLimit = Literal["1g", "4g", "16g", "64g"]
FileIds = Annotated[Strings, Field(max_length=50)]


class DomainSecret(TypedDict):
    domain: NonEmpty
    name: NonEmpty
    value: Annotated[str, Field(min_length=1, max_length=10_485_760)]


class NetworkDisabled(TypedDict):
    type: Literal["disabled"]


class NetworkAllowlist(TypedDict, total=False):
    type: Required[Literal["allowlist"]]
    allowed_domains: Required[Annotated[Strings, Field(min_length=1)]]
    domain_secrets: Annotated[Many[DomainSecret], Field(min_length=1)] | None


NetworkPolicy = Annotated[NetworkDisabled | NetworkAllowlist, OneOf()]


class SkillReference(TypedDict, total=False):
    type: Required[Literal["skill_reference"]]
    skill_id: Required[Annotated[str, Field(min_length=1, max_length=64)]]
    version: str | None


class SkillArchive(TypedDict):
    type: Literal["base64"]
    media_type: Literal["application/zip"]
    data: Annotated[str, Field(min_length=1, max_length=70_254_592)]


class InlineSkill(TypedDict):
    type: Literal["inline"]
    name: str
    description: str
    source: SkillArchive


class LocalSkill(TypedDict):
    name: str
    description: str
    path: str


Skill = Annotated[SkillReference | InlineSkill, OneOf()]


class AutoContainer(TypedDict, total=False):
    """The container that a code interpreter gets when none is named."""

    type: Required[Literal["auto"]]
    file_ids: FileIds | None
    memory_limit: MemoryLimit | None
    network_policy: NetworkPolicy | None


class AutoShellContainer(TypedDict, total=False):
    type: Required[Literal["container_auto"]]
    file_ids: FileIds | None
    memory_limit: MemoryLimit | None
    network_policy: NetworkPolicy | None
    skills: Annotated[Many[Skill], Field(max_length=200)] | None


class LocalMachine(TypedDict, total=False):
    type: Required[Literal["local"]]
    skills: Annotated[Many[LocalSkill], Field(max_length=200)] | None


class ContainerReference(TypedDict):
    type: Literal["container_reference"]
    container_id: str


Container = Annotated[str | AutoContainer, OneOf("one of a string or an object")]
ShellEnvironment = Annotated[AutoShellContainer | LocalMachine | ContainerReference, OneOf()]
ShellCallEnvironment = Annotated[LocalMachine | ContainerReference, OneOf()]
