/** The chat page: takes the extension's messages, keeps the view, and has each part draw what changed. */

import type { FromPage, ToPage } from "../../features/chat/protocol";
import { Composer } from "./composer";
import { Banner, Empty } from "./empty";
import { h, show } from "./h";
import { HistoryList } from "./history";
import { type EditorApi, type Host, type Saved, savedOf } from "./host";
import { Notices } from "./notices";
import { Scroll } from "./scroll";
import { type Act, EMPTY, reduce, running, type View } from "./state";
import { Turns } from "./turns";

const SAVE_MS = 250;
const MOST_ERRORS = 20;
/** Drawing may take this part of the time; a slower one waits in between. */
const REST = 2;
const CHEAP_MS = 8;

/** Runs `draw` at a good moment; `tookMs`: how long the last drawing took. */
export type Schedule = (draw: () => void, tookMs: number) => void;

const atNextFrame: Schedule = (draw, tookMs) => {
  if (tookMs <= CHEAP_MS) requestAnimationFrame(draw);
  else setTimeout(() => requestAnimationFrame(draw), tookMs * REST);
};

export class Page implements Host {
  #view: View = EMPTY;
  #drawn: View = EMPTY;
  #waiting = false;
  #tookMs = 0;
  #saveTimer: ReturnType<typeof setTimeout> | undefined;
  #errors = 0;
  readonly #saved: Saved;
  readonly #composer: Composer;
  readonly #scroll: Scroll;
  readonly #talk: HTMLElement;
  readonly #parts: readonly { update(view: View): void }[];

  constructor(
    root: HTMLElement,
    private readonly editor: EditorApi,
    private readonly schedule: Schedule = atNextFrame,
  ) {
    this.#saved = savedOf(editor.getState());
    this.#composer = new Composer(this, this.#saved.draft, this.#saved.images, () => this.#save());
    const banner = new Banner(this);
    const history = new HistoryList(this);
    const empty = new Empty(this, (text) => this.#composer.focus(text));
    const turns = new Turns(this);
    const notices = new Notices(this);
    const area = h("main", { class: "area", tabindex: -1 }, empty.element, turns.element);
    this.#scroll = new Scroll(area, () => this.#save());
    const below = h("div", { class: "below" }, this.#scroll.button, notices.element);
    this.#talk = h("div", { class: "talk" }, area);
    this.#parts = [banner, history, empty, turns, notices, this.#composer];
    root.replaceChildren(banner.element, history.element, this.#talk, below, this.#composer.element);
    root.addEventListener("keydown", (event) => this.#key(event));
    this.send({ type: "ready" });
  }

  view(): View {
    return this.#view;
  }

  send(message: FromPage): void {
    this.editor.postMessage(message);
  }

  act(act: Act): void {
    this.#change(reduce(this.#view, act));
  }

  /** A message of the extension; anything else is passed over. */
  receive(message: unknown): void {
    if (typeof message !== "object" || message === null || !("type" in message)) return;
    this.#change(reduce(this.#view, message as ToPage));
  }

  /** Put away at once what must survive the page: it is being hidden. */
  keep(): void {
    clearTimeout(this.#saveTimer);
    const { text, savedImages } = this.#composer;
    const conversation = this.#view.chat?.current.id ?? this.#saved.conversation;
    const saved: Saved = { draft: text, images: savedImages, conversation, scroll: this.#scroll.position };
    this.editor.setState(saved);
  }

  /** The window has another size. */
  resized(): void {
    this.#scroll.follow();
  }

  /** Tell the log of a mistake in the page; a flood is cut off. */
  failed(error: unknown): void {
    if (++this.#errors > MOST_ERRORS) return;
    const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
    this.send({ type: "pageError", message: message.slice(0, 4_000) });
  }

  #change(view: View): void {
    if (view === this.#view) return;
    const lost = view.lost && !this.#view.lost;
    this.#view = view;
    if (lost) this.send({ type: "ready" });
    if (this.#waiting) return;
    this.#waiting = true;
    this.schedule(() => this.#draw(), this.#tookMs);
  }

  #draw(): void {
    this.#waiting = false;
    const began = performance.now();
    const before = this.#drawn;
    const view = this.#view;
    this.#drawn = view;
    show(this.#talk, !view.history.open);
    show(this.#composer.element, !view.history.open);
    for (const part of this.#parts) {
      try {
        part.update(view);
      } catch (error) {
        this.failed(error); // the other parts go on
      }
    }
    this.#follow(before, view);
    this.#tookMs = performance.now() - began;
  }

  #follow(before: View, view: View): void {
    const now = view.chat?.current;
    const then = before.chat?.current;
    if (!now) return;
    if (!then && now.id === this.#saved.conversation) this.#scroll.restore(this.#saved.scroll);
    else if (now.id !== then?.id || now.turns.at(-1)?.id !== then.turns.at(-1)?.id) this.#scroll.toEnd();
    else this.#scroll.follow();
    if (before.history.open && !view.history.open) this.#composer.focus();
    if (now.id !== then?.id) this.#save();
  }

  #key(event: KeyboardEvent): void {
    if (event.key !== "Escape" || event.defaultPrevented || event.isComposing || this.#view.history.open) return;
    if (running(this.#view)) this.send({ type: "stop" });
  }

  #save(): void {
    clearTimeout(this.#saveTimer);
    this.#saveTimer = setTimeout(() => this.keep(), SAVE_MS);
  }
}

/** Make the page live in `window`. */
export function startPage(root: HTMLElement, editor: EditorApi, schedule?: Schedule): Page {
  const page = new Page(root, editor, schedule);
  window.addEventListener("message", (event: MessageEvent<unknown>) => page.receive(event.data));
  window.addEventListener("resize", () => page.resized());
  window.addEventListener("pagehide", () => page.keep());
  window.addEventListener("error", (event) => page.failed(event.error ?? event.message));
  window.addEventListener("unhandledrejection", (event) => page.failed(event.reason));
  // A file that misses the question must not replace the page.
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
  return page;
}
