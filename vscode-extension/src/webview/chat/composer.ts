/** The question being written: text, chips, pictures, the model, what it would cost, and the button that sends or stops. */

import { chipList, showChips } from "./chips";
import { fill, h, iconButton, show } from "./h";
import type { Host } from "./host";
import { icon } from "./icons";
import { dataUrl, droppedUris, MOST_IMAGE_BYTES, MOST_IMAGES, pictures } from "./incoming";
import { typeInto } from "./mentionText";
import { Meter } from "./meter";
import { Recall } from "./recall";
import { modelOf, running, type View, whyNot } from "./state";
import { Suggest } from "./suggest";

const DRAFT_MS = 150;
const ASKED_MS = 5_000;
const MOST_SAVED = 1024 * 1024;

export class Composer {
  readonly element: HTMLElement;
  readonly #box = h("textarea", {
    rows: 1,
    "aria-label": "Question",
    "aria-describedby": "why-not",
    placeholder: "Ask; @ adds context",
    dir: "auto",
  });
  readonly #chips = chipList("Sent along");
  readonly #pictures = h("ul", { class: "pictures", "aria-label": "Pictures", hidden: true });
  readonly #why = h("p", { id: "why-not", class: "why-not", role: "status" });
  readonly #send = iconButton("send", "Send", { class: "icon primary", onclick: () => this.submit() });
  readonly #stop = iconButton("stop", "Stop (Escape)", {
    class: "icon primary",
    hidden: true,
    onclick: () => this.host.send({ type: "stop" }),
  });
  readonly #meter: Meter;
  readonly #suggest: Suggest;
  readonly #recall = new Recall();
  #images: readonly string[];
  #drawn: View | undefined;
  #draftTimer: ReturnType<typeof setTimeout> | undefined;
  /** Enter was pressed although nothing could be sent: say why until something changes. */
  #insisted = false;
  #begun = false;

  constructor(
    private readonly host: Host,
    draft: string,
    images: readonly string[],
    private readonly changed: () => void,
  ) {
    this.#images = images;
    this.#box.value = draft;
    this.#suggest = new Suggest(this.#box, host, () => this.#edited());
    this.#meter = new Meter(host);
    const line = h("div", { class: "composer-line" }, this.#meter.element, this.#stop, this.#send);
    const frame = h("div", { class: "composer-box" }, this.#chips, this.#pictures, this.#box, line);
    this.element = h("form", { class: "composer", "aria-label": "Ask" }, this.#suggest.element, frame, this.#why);
    // A narrower bar breaks the lines anew.
    if (typeof ResizeObserver === "function") new ResizeObserver(() => this.#grow()).observe(this.element);
    this.#listen();
    this.#showPictures();
  }

  get text(): string {
    return this.#box.value;
  }

  /** Pictures that are small enough to be kept by the editor. */
  get savedImages(): readonly string[] {
    const size = this.#images.reduce((sum, image) => sum + image.length, 0);
    return size <= MOST_SAVED ? this.#images : [];
  }

  /** Put the cursor here; `text` is added to what stands there. */
  focus(text = ""): void {
    const box = this.#box;
    const end = box.value.length;
    if (text !== "") {
      const space = end > 0 && !/\s$/.test(box.value) ? " " : "";
      typeInto(box, end, end, space + text);
      this.#edited();
    }
    box.focus();
    box.setSelectionRange(box.value.length, box.value.length);
  }

  update(view: View): void {
    const before = this.#drawn;
    this.#drawn = view;
    if (view.chat && !this.#begun) this.#begin(view.chat.draft);
    if (view.started.number !== (before?.started.number ?? 0)) this.#letGo(view.started.text);
    if (view.chat?.mentions !== before?.chat?.mentions) this.#showChips(view);
    if (view.suggestions !== before?.suggestions) {
      this.#suggest.update(view.suggestions.requestNumber, view.suggestions.items);
    }
    if (before && view.asking === undefined && before.asking !== undefined) this.#insisted = false;
    this.#meter.update(view);
    this.#ready(view);
    if (view.focus.number !== (before?.focus.number ?? 0)) this.focus(view.focus.text);
  }

  /** Send the question, or say why not. */
  submit(): void {
    const view = this.host.view();
    const text = this.#box.value;
    const why = whyNot(view, text, this.#images.length);
    this.#insisted = why !== undefined;
    if (why !== undefined) {
      this.#ready(view);
      return;
    }
    this.#suggest.close();
    clearTimeout(this.#draftTimer);
    const mentions = (view.chat?.mentions ?? []).map(({ id }) => id);
    this.host.act({ type: "asked", text });
    this.host.send({ type: "ask", text, mentions, images: this.#images });
    setTimeout(() => {
      if (this.host.view().asking === text) this.host.act({ type: "askForgotten" });
    }, ASKED_MS);
  }

  #listen(): void {
    const box = this.#box;
    box.addEventListener("input", () => this.#edited());
    box.addEventListener("keydown", (event) => this.#key(event));
    box.addEventListener("click", () => this.#suggest.typed());
    box.addEventListener("blur", () => this.#suggest.close());
    box.addEventListener("paste", (event) => {
      const files = pictures(event.clipboardData?.files ?? []);
      if (files.length === 0) return;
      event.preventDefault();
      void this.#take(files);
    });
    this.element.addEventListener("submit", (event) => event.preventDefault());
    this.element.addEventListener("dragover", (event) => this.#dragged(event, true));
    this.element.addEventListener("dragleave", (event) => this.#dragged(event, false));
    this.element.addEventListener("drop", (event) => this.#dropped(event));
  }

  #key(event: KeyboardEvent): void {
    if (event.isComposing || event.keyCode === 229) return; // an input method is at work
    if (this.#suggest.key(event)) return;
    const questions = this.host.view().chat?.current.turns.map(({ question }) => question) ?? [];
    if (event.key === "Enter" && !event.shiftKey && !event.altKey) {
      event.preventDefault();
      this.submit();
    } else if (event.key === "ArrowUp" && !event.shiftKey)
      this.#recalled(event, this.#recall.older(this.text, questions));
    else if (event.key === "ArrowDown" && !event.shiftKey)
      this.#recalled(event, this.#recall.newer(this.text, questions));
    else if (event.key === "Backspace" && this.text === "") this.#removeLast();
  }

  #recalled(event: Event, text: string | undefined): void {
    if (text === undefined) return;
    event.preventDefault();
    this.#put(text);
  }

  #put(text: string): void {
    this.#box.value = text;
    this.#box.setSelectionRange(text.length, text.length);
    this.#edited();
  }

  #edited(): void {
    this.#insisted = false;
    this.#grow();
    this.#suggest.typed();
    this.#ready(this.host.view());
    this.changed();
    clearTimeout(this.#draftTimer);
    this.#draftTimer = setTimeout(() => this.host.send({ type: "draft", text: this.#box.value }), DRAFT_MS);
  }

  #grow(): void {
    this.#box.style.height = "auto";
    this.#box.style.height = `${this.#box.scrollHeight}px`;
  }

  #ready(view: View): void {
    const busy = running(view) !== undefined;
    const why = whyNot(view, this.text, this.#images.length);
    if (busy && document.activeElement === this.#send) this.#box.focus();
    show(this.#stop, busy);
    show(this.#send, !busy);
    // Not `disabled`: it must stay reachable to tell why.
    this.#send.setAttribute("aria-disabled", String(why !== undefined));
    this.#send.title = why ? why : "Send (Enter)";
    const told = why && (this.#insisted || (this.text.trim() !== "" && !busy && view.asking === undefined)) ? why : "";
    if (this.#why.textContent !== told) this.#why.textContent = told;
    show(this.#why, told !== "");
    this.#box.setAttribute("aria-busy", String(view.asking !== undefined));
  }

  /** The extension has told its draft for the first time: the page's own is newer, if there is one. */
  #begin(draft: string): void {
    this.#begun = true;
    if (this.text === "" && draft !== "") this.#put(draft);
    else if (this.text !== "") this.#edited();
    else this.#grow();
  }

  /** The question has become a turn; what was typed behind it since then stays. */
  #letGo(asked: string): void {
    this.#images = [];
    this.#showPictures();
    const rest = this.text.startsWith(asked) ? this.text.slice(asked.length) : this.text;
    this.#put(rest.trim() === "" ? "" : rest);
  }

  #showChips(view: View): void {
    showChips(this.#chips, view.chat?.mentions ?? [], {
      open: ({ id }) => this.host.send({ type: "openMention", id }),
      remove: ({ id }) => this.#removeMention(id),
    });
  }

  #removeMention(id: string): void {
    this.host.act({ type: "mentionRemoved", id });
    this.host.send({ type: "removeMention", id });
    this.#box.focus();
  }

  #removeLast(): void {
    const last = this.host.view().chat?.mentions.at(-1);
    if (last) this.#removeMention(last.id);
  }

  #dragged(event: DragEvent, over: boolean): void {
    if (over) event.preventDefault();
    this.element.classList.toggle("drop-here", over);
  }

  #dropped(event: DragEvent): void {
    event.preventDefault();
    this.#dragged(event, false);
    const data = event.dataTransfer;
    if (!data) return;
    const uris = droppedUris(data);
    const files = pictures(data.files);
    if (uris.length > 0) this.host.send({ type: "drop", uris });
    else if (files.length > 0) void this.#take(files);
    else this.host.act({ type: "said", text: "Drag files from the editor's explorer, or type @file." });
    this.#box.focus();
  }

  async #take(files: readonly File[]): Promise<void> {
    const model = modelOf(this.host.view().chat);
    if (!model?.vision)
      return this.#say(`${model?.id ?? "The model"} cannot see pictures. Choose a model with vision.`);
    if (files.some((file) => file.size > MOST_IMAGE_BYTES)) return this.#say("A picture may have 8 MB at most.");
    if (this.#images.length + files.length > MOST_IMAGES)
      return this.#say(`At most ${MOST_IMAGES} pictures go with a question.`);
    try {
      this.#images = [...this.#images, ...(await Promise.all(files.map(dataUrl)))];
    } catch {
      this.#say("The picture cannot be read.");
    }
    this.#showPictures();
    this.#edited();
  }

  #say(text: string): void {
    this.host.act({ type: "said", text });
  }

  #showPictures(): void {
    show(this.#pictures, this.#images.length > 0);
    fill(this.#pictures, ...this.#images.map((image, index) => this.#picture(image, index)));
  }

  #picture(image: string, index: number): HTMLElement {
    const remove = () => {
      this.#images = this.#images.filter((_, place) => place !== index);
      this.#showPictures();
      this.#edited();
      this.#box.focus();
    };
    const name = `picture ${index + 1}`;
    const shown = image.startsWith("data:image/") ? h("img", { src: image, alt: name }) : icon("image");
    return h("li", { class: "picture-chip" }, shown, iconButton("close", `Remove ${name}`, { onclick: remove }));
  }
}
