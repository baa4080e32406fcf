/** Puts the page together: messages in, clicks out. */

import { fill, h } from "../chat/h";
import { filterBar } from "./filters";
import { RowList } from "./list";
import { serverPart } from "./server";
import { firstState, isToPanel, type PanelApi, received, type State } from "./state";
import { summaryPart } from "./summary";

const SEEN_AFTER_MS = 120;

/** Starts the page inside `root`. `source` is where the extension's messages arrive: the window. */
export function startPanel(root: HTMLElement, api: PanelApi, source: EventTarget): { dispose(): void } {
  let state: State = firstState(api.getState());
  let seenSoon: ReturnType<typeof setTimeout> | undefined;
  const seen = new Set<number>();
  const server = h("section", { class: "server", "aria-label": "Server" });
  const summary = h("section", { class: "summary", "aria-label": "Summary" });
  const filters = h("div", { class: "filters", role: "toolbar", "aria-label": "Which requests" });
  const list = new RowList({
    toggle: (id) => change({ ...state, open: toggled(state.open, id) }),
    copy: (id) => api.postMessage({ type: "copy", id }),
    seen: (id) => {
      seen.add(id);
      seenSoon ??= setTimeout(tellSeen, SEEN_AFTER_MS);
    },
  });
  const tellSeen = () => {
    seenSoon = undefined;
    api.postMessage({ type: "seen", ids: [...seen] });
    seen.clear();
  };
  const change = (next: State) => {
    const old = state;
    state = next;
    if (next.choice !== old.choice) api.setState(next.choice);
    draw(old);
  };
  const draw = (old: State | undefined) => {
    if (old?.server !== state.server)
      fill(server, ...serverPart(state.server, (command) => api.postMessage({ type: "run", command })));
    const chosen = old?.choice !== state.choice;
    if (chosen || old?.summaries !== state.summaries)
      fill(summary, ...summaryPart(state.summaries[state.choice.feature]));
    if (chosen || old?.summaries !== state.summaries) {
      const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.key : undefined;
      fill(
        filters,
        ...filterBar(state, {
          choose: (choice) => change({ ...state, choice: { ...state.choice, ...choice } }),
          copyAll: () => api.postMessage({ type: "copy" }),
        }),
      );
      if (focused !== undefined) filters.querySelector<HTMLElement>(`[data-key="${focused}"]`)?.focus();
    }
    list.draw(state);
  };
  const onMessage = (event: Event) => {
    const data: unknown = event instanceof MessageEvent ? event.data : undefined;
    if (isToPanel(data)) change(received(state, data));
  };
  fill(root, server, summary, filters, list.element);
  draw(undefined);
  source.addEventListener("message", onMessage);
  api.postMessage({ type: "ready" });
  return {
    dispose: () => {
      source.removeEventListener("message", onMessage);
      clearTimeout(seenSoon);
      list.dispose();
    },
  };
}

function toggled(open: ReadonlySet<number>, id: number): ReadonlySet<number> {
  const next = new Set(open);
  if (!next.delete(id)) next.add(id);
  return next;
}
