/**
 * Workflows with nodes of the published JetBlock packs: the server replaces these before the page makes the workflow's
 * nodes, because the page would give their saved values, by position, to the widgets that nodes of the name have now.
 */
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const ROUTE = "/jetblock/upgrade";

/** The published nodes: by id, the names of their outputs, which no node of today with the id has. */
const published = api
  .fetchApi(ROUTE)
  .then((answer) => (answer.ok ? answer.json() : {}))
  .catch(() => ({}));

function isPublished(node, known) {
  const outputs = Object.hasOwn(known, node?.type) ? known[node.type] : undefined;
  return outputs?.length === node?.outputs?.length && outputs?.every((name, at) => name === node.outputs[at]?.name);
}

app.registerExtension({
  name: "JetBlock.upgrade",

  async beforeConfigureGraph(graph) {
    const known = await published;
    const scopes = [graph, ...(graph?.definitions?.subgraphs ?? [])];
    if (!scopes.some((scope) => scope?.nodes?.some?.((node) => isPublished(node, known)))) {
      return;
    }
    try {
      const answer = await api.fetchApi(ROUTE, { method: "POST", body: JSON.stringify(graph) });
      const { workflow, changes, error } = await answer.json();
      if (!answer.ok) {
        throw new Error(error);
      }
      for (const name of Object.keys(graph)) {
        delete graph[name];
      }
      Object.assign(graph, workflow);
      changes.forEach((change) => console.info(`JetBlock: ${change}`));
      app.extensionManager?.toast?.add?.({
        severity: "info",
        summary: "JetBlock: nodes of an earlier version",
        detail: changes.join("\n"),
        life: 15000,
      });
    } catch (error) {
      console.warn("JetBlock: the workflow's nodes of an earlier version stay as they are:", error);
    }
  },
});
