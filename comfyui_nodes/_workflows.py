"""Workflows as ComfyUI's page saves them, with published nodes in them.

The page gives the values in a node's list to its widgets by position, so a node that has other widgets now would come
up with wrong ones, before any prompt is sent. The page's part of this is `web/js/upgrade.js`.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ._exchange import Exchange, is_link, new_ids
from ._published import PUBLISHED, Published
from ._workflow_nodes import new_node, widget_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._exchange import Change, Graph

LOG = logging.getLogger(__name__)
ROUTE = "/jetblock/upgrade"
LIMIT = 32 << 20
"""Bytes of a workflow that are read at most."""
PARTS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
"""Of a link, by the names that they have where it is an object; else it is a list of them."""
SUBGRAPH_INPUTS, SUBGRAPH_OUTPUTS = -10, -20
"""The nodes that stand for a subgraph's own inputs and outputs."""
COUNTERS, STATE = ("last_node_id", "last_link_id"), ("lastNodeId", "lastLinkId")
Json = dict[str, Any]


class MalformedError(ValueError):
    """Why this is no workflow."""


def upgrade(workflow: Any, is_free: Callable[[str], bool]) -> list[str]:
    """Replaces the published nodes of a workflow, in place; says what became of each.

    Raises:
        MalformedError: It is none.
    """
    expect(isinstance(workflow, dict), "the workflow is no object")
    definitions = workflow.get("definitions")
    subgraphs = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    scopes = [Scope(scope) for scope in [workflow, *(subgraphs if isinstance(subgraphs, list) else [])]]
    if not any(scope.published(is_free) for scope in scopes):
        return []
    for scope in scopes:
        scope.read_links()
    nodes = new_ids(str(node["id"]) for scope in scopes for node in scope.nodes)
    links = new_ids(str(link) for scope in scopes for link in scope.links)
    changes = [change.words for scope in scopes for change in scope.upgrade(is_free, nodes, links)]
    # The page counts on from these; subgraphs share the numbers.
    last_node, last_link = int(next(nodes)) - 1, int(next(links)) - 1
    for scope in scopes:
        scope.count(last_node, last_link)
    return changes


@dataclass
class Link:
    """A link of a workflow."""

    origin: Any
    slot: int
    target: Any
    target_slot: int
    kind: Any
    saved: Any = None
    """As it was saved."""


class Scope:
    """A workflow or one of its subgraphs: nodes, and the links between them."""

    def __init__(self, data: Any) -> None:
        expect(isinstance(data, dict) and isinstance(data.get("nodes"), list), "nodes are no list")
        self.data: Json = data
        self.nodes: list[Json] = data["nodes"]
        self.links: dict[int, Link] = {}
        self.old: dict[str, Published] = {}
        self.as_objects = False
        """In which of two forms links are saved."""
        for node in self.nodes:
            expect(isinstance(node, dict), "a node is no object")
            expect(isinstance(node.get("id"), (int, str)), "a node has no id")
            expect(isinstance(node.get("type"), str), f"node {node['id']} has no type")
            for side in ("inputs", "outputs"):
                slots = node.get(side) or []
                expect(
                    isinstance(slots, list) and all(isinstance(slot, dict) for slot in slots),
                    f"the {side} of node {node['id']} are no list of objects",
                )
        self.by_id = {str(node["id"]): node for node in self.nodes}
        expect(len(self.by_id) == len(self.nodes), "two nodes have the same id")

    def published(self, is_free: Callable[[str], bool]) -> dict[str, Published]:
        """The published nodes, by id."""
        found = {}
        for node_id, node in self.by_id.items():
            known = PUBLISHED.get(node["type"])
            if known and is_free(node["type"]) and tuple(_names(node, "outputs")) == known.outputs:
                found[node_id] = known
        return found

    def read_links(self) -> None:
        """Reads the links in either form."""
        links = self.data.get("links") or []
        expect(isinstance(links, list), "links are no list")
        self.as_objects = "inputNode" in self.data or any(isinstance(saved, dict) for saved in links)
        for saved in links:
            values: Any = [saved.get(name) for name in PARTS] if isinstance(saved, dict) else saved
            expect(isinstance(values, list) and len(values) >= len(PARTS), "a link has no six parts")
            number, origin, slot, target, target_slot, kind = values[: len(PARTS)]
            expect(
                all(type(part) is int for part in (number, slot, target_slot))
                and all(isinstance(end, (int, str)) for end in (origin, target)),
                f"link {number} is not made of numbers",
            )
            ends = {str(origin), str(target)} - {str(SUBGRAPH_INPUTS), str(SUBGRAPH_OUTPUTS)}
            if ends <= self.by_id.keys():  # else it is of a node that is no more
                self.links[number] = Link(origin, slot, target, target_slot, kind, saved)

    def upgrade(self, is_free: Callable[[str], bool], nodes: Iterator[str], links: Iterator[str]) -> list[Change]:
        """Replaces the published nodes."""
        old = self.old = self.published(is_free)
        if not old:
            return []
        graph: Graph = {}
        for node_id, node in self.by_id.items():
            values = widget_values(node, old[node_id]) if node_id in old else {}
            graph[node_id] = {"class_type": node["type"], "inputs": values}
        graph[str(SUBGRAPH_OUTPUTS)] = {"class_type": "", "inputs": {}}
        for number, link in self.links.items():
            target = str(link.target)
            if target in graph:
                graph[target]["inputs"][self._name(number, link)] = [str(link.origin), link.slot]
        changes = Exchange(graph, {node: known.replacement for node, known in old.items()}, nodes).run()
        self._follow(graph, [change for change in changes if change.now], links)
        return changes

    def _follow(self, graph: Graph, changes: list[Change], new_links: Iterator[str]) -> None:
        """Makes nodes and links as they are in the graph."""
        fed: dict[tuple[str, str], int] = {}
        """Links that led into a replaced node, by the input's name."""
        gone = {node for node in self.by_id if node not in graph} | {change.node for change in changes}
        for number, link in self.links.items():
            target, name = str(link.target), self._name(number, link)
            if target in gone:
                fed[target, name] = number
            elif target in graph:
                origin, link.slot = graph[target]["inputs"][name]
                link.origin = self._raw(origin)
        freed = {number: link for number, link in self.links.items() if str(link.target) in gone}
        self.links = {number: link for number, link in self.links.items() if number not in freed}
        for change in changes:
            was = self.by_id[change.node]
            made: list[Json] = []
            values = widget_values(was, self.old[change.node])
            for at, node_id in enumerate(change.now):
                entry = graph[node_id]
                node = new_node(self._raw(node_id), entry, made[0] if made else was, at, values)
                made.append(node)
                for target_slot, slot in enumerate(node["inputs"]):
                    source = entry["inputs"].get(slot["name"])
                    if not is_link(source):
                        continue
                    # The same link where the input goes on by its name, with its way over the page.
                    number = fed.pop((change.node, slot["name"]), 0) or int(next(new_links))
                    saved = freed[number].saved if number in freed else None
                    slot["link"] = number
                    self.links[number] = Link(
                        self._raw(source[0]), source[1], node["id"], target_slot, slot["type"], saved
                    )
            at = self.nodes.index(was)
            self.nodes[at : at + 1] = made
        self.nodes[:] = [node for node in self.nodes if str(node["id"]) in graph]
        self._save_links()

    def _name(self, number: int, link: Link) -> str:
        """The input to which a link leads; of nodes that are not replaced nobody asks for the name."""
        target = str(link.target)
        if target not in self.old:
            return str(number)
        names = _names(self.by_id[target], "inputs")
        there = 0 <= link.target_slot < len(names) and isinstance(names[link.target_slot], str)
        expect(there, f"link {number} leads to an input that is not there")
        return str(names[link.target_slot])

    def _raw(self, node_id: str) -> Any:
        """An id as the page knows it."""
        node = self.by_id.get(node_id)
        if node:
            return node["id"]
        return int(node_id) if node_id.removeprefix("-").isdecimal() else node_id

    def _save_links(self) -> None:
        """Writes the links, and at each node which of them are its own."""
        after: dict[tuple[str, int], list[int]] = {}
        nodes = {str(node["id"]): node for node in self.nodes}
        lines: list[Any] = []
        for number, link in self.links.items():
            after.setdefault((str(link.origin), link.slot), []).append(number)
            source = nodes.get(str(link.origin))
            outputs = (source.get("outputs") or []) if source else []
            kind = outputs[link.slot].get("type", link.kind) if 0 <= link.slot < len(outputs) else link.kind
            parts = (number, link.origin, link.slot, link.target, link.target_slot, kind)
            kept = link.saved if isinstance(link.saved, dict) else {}
            lines.append({**kept, **dict(zip(PARTS, parts, strict=True))} if self.as_objects else list(parts))
        self.data["links"] = lines
        for node_id, node in nodes.items():
            for slot, output in enumerate(node.get("outputs") or []):
                now = after.get((node_id, slot), [])
                if now != (output.get("links") or []):
                    output["links"] = now
        for slot, entry in enumerate(_objects(self.data.get("inputs"))):
            entry["linkIds"] = after.get((str(SUBGRAPH_INPUTS), slot), [])
        # Links that are no more also leave the points through which they went.
        extra = self.data.get("extra")
        extra = extra if isinstance(extra, dict) else {}
        for reroute in _objects(self.data.get("reroutes")) + _objects(extra.get("reroutes")):
            if isinstance(reroute.get("linkIds"), list):
                reroute["linkIds"] = [link for link in reroute["linkIds"] if self._has(link)]
        if "linkExtensions" in extra:
            extra["linkExtensions"] = [one for one in _objects(extra["linkExtensions"]) if self._has(one.get("id"))]

    def _has(self, link: Any) -> bool:
        return isinstance(link, int) and link in self.links

    def count(self, last_node: int, last_link: int) -> None:
        """Says which numbers are taken."""
        for place, names in ((self.data, COUNTERS), (self.data.get("state"), STATE)):
            for name, last in zip(names, (last_node, last_link), strict=True):
                if isinstance(place, dict) and isinstance(place.get(name), int):
                    place[name] = max(place[name], last)


def _names(node: Json, side: str) -> list[Any]:
    return [slot.get("name") for slot in node.get(side) or []]


def _objects(values: Any) -> list[Json]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def expect(condition: object, otherwise: str) -> None:
    """Refuses what is no workflow."""
    if not condition:
        raise MalformedError(otherwise)


def add_routes(routes: Any, is_free: Callable[[str], bool]) -> None:
    """Lets the page ask which nodes were published, and for a workflow without them."""

    async def published(_: web.Request) -> web.Response:
        return web.json_response({node_id: node.outputs for node_id, node in PUBLISHED.items() if is_free(node_id)})

    async def upgraded(request: web.Request) -> web.Response:
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > LIMIT:
                return web.json_response({"error": f"the workflow has more than {LIMIT} bytes"}, status=413)
        try:
            workflow = json.loads(body)
            changes = upgrade(workflow, is_free)
            answer = json.dumps({"workflow": workflow, "changes": changes})
        except RecursionError:
            return web.json_response({"error": "the workflow is nested too deeply"}, status=400)
        except ValueError as error:
            return web.json_response({"error": f"this is no workflow: {error}"}, status=400)
        for change in changes:
            LOG.info("JetBlock: %s", change)
        return web.json_response(text=answer)

    routes.get(ROUTE)(published)
    routes.post(ROUTE)(upgraded)
