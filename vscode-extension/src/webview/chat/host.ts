/** What the parts of the page get from the page: a way to tell the extension, a way to change the view, and the view. */

import type { FaultView, FromPage, PageCommand } from "../../features/chat/protocol";
import type { Act, View } from "./state";

export interface Host {
  send(message: FromPage): void;
  act(act: Act): void;
  view(): View;
}

/** What VS Code gives a page. */
export interface EditorApi {
  postMessage(message: FromPage): void;
  getState(): unknown;
  setState(state: unknown): void;
}

/** Kept by the editor while the page is hidden, and over a reload of the window. */
export interface Saved {
  readonly draft: string;
  readonly images: readonly string[];
  readonly conversation: string;
  /** Pixels from the top; -1: at the end. */
  readonly scroll: number;
}

const NOTHING: Saved = { draft: "", images: [], conversation: "", scroll: -1 };

/** What was saved, as far as it makes sense. */
export function savedOf(value: unknown): Saved {
  if (typeof value !== "object" || value === null) return NOTHING;
  const saved = value as Partial<Record<keyof Saved, unknown>>;
  const images = Array.isArray(saved.images) ? saved.images.filter((image) => typeof image === "string") : [];
  return {
    draft: typeof saved.draft === "string" ? saved.draft : "",
    images,
    conversation: typeof saved.conversation === "string" ? saved.conversation : "",
    scroll: typeof saved.scroll === "number" ? saved.scroll : -1,
  };
}

const LABELS: Readonly<Record<PageCommand, string>> = {
  setUp: "Set up",
  setKey: "Enter the key",
  check: "Check the connection",
  panel: "Why slow, why nothing",
  "workspace.sync": "Keep this folder warm",
  "docs.add": "Add documentation",
};

/** The words on a command's button. */
export function commandLabel(command: PageCommand): string {
  return LABELS[command];
}

/** Message and fix in one, for what can only be one line. */
export function oneLine(fault: Pick<FaultView, "message" | "fix">): string {
  return [fault.message, fault.fix].filter(Boolean).join(" ");
}
