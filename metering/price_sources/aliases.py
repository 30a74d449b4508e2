"""Which model has which name. Pure."""

from collections import defaultdict
from collections.abc import Iterable

from metering.price_sources.listing import Draft


def grant_names(drafts: Iterable[Draft]) -> tuple[dict[str, set[str]], list[str]]:
    """Names by public id, and a sentence for each name that is refused.

    A public id is nobody else's alias. What the model's maker itself calls exactly so goes before what is only implied
    or said by others; a name that two models still want goes to neither.
    """
    drafts = list(drafts)
    public_ids = {draft.public_id for draft in drafts}
    wanted: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for draft in drafts:
        for name in draft.own_names:
            wanted[name][0].add(draft.public_id)
        for name in draft.other_names:
            wanted[name][1].add(draft.public_id)
    granted: dict[str, set[str]] = {public_id: set() for public_id in public_ids}
    refusals: list[str] = []
    for name, (own, other) in sorted(wanted.items()):
        contenders = own or other
        if name in public_ids:
            if contenders != {name}:
                refusals.append(f"alias {name}: is a model's public id, not an alias of {_list(contenders - {name})}")
        elif len(contenders) == 1:
            granted[next(iter(contenders))].add(name)
        else:
            refusals.append(f"alias {name}: claimed by {_list(contenders)}; nobody has it")
    return granted, refusals


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))
