"""Which upstream a caller's model is served by. One that is not for it is as if it were not there."""

from app.domain.tenancy import Caller
from app.providers.registry import Registry, Route, unknown_model


def resolve(registry: Registry, caller: Caller, model: str) -> Route:
    """As `Registry.resolve`, for what this tenant may name.

    Raises:
        InvalidRequest: nobody serves it, or it is not for this tenant, in the same words.
    """
    if not caller.may_name(model):
        raise unknown_model(model)
    return registry.resolve(model)
