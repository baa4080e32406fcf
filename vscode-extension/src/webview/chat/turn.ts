/** One question and its answer on the page. */

import type { Ending, Source, Turn } from "../../features/chat/protocol";
import { cachedShare, percent } from "../../features/figures";
import { chipList, showChips } from "./chips";
import { fill, h, iconButton, show, textButton } from "./h";
import { commandLabel, type Host } from "./host";
import { icon } from "./icons";
import { linkTarget } from "./links";
import { Markdown } from "./markdown";
import { cost, costDetail } from "./numbers";
import { QuestionEditor } from "./questionEditor";
import { type Applied, appliedKey } from "./state";

const APPLIED: Readonly<Record<Applied["state"], string>> = {
  working: "Preparing the diff",
  shown: "Diff is open",
  applied: "Applied",
  rejected: "Rejected",
  failed: "Not applied",
};

export class TurnView {
  readonly element: HTMLElement;
  readonly #question = h("div", { class: "question-text" });
  readonly #chips = chipList("Sent along");
  readonly #pictures = h("ul", { class: "pictures", "aria-label": "Pictures", hidden: true });
  readonly #ask = h("section", { class: "question", "aria-label": "Your question" });
  readonly #thoughts = h("div", { class: "thoughts" });
  readonly #thinking = h("summary", {}, "Thoughts");
  readonly #reasoning = h("details", { class: "reasoning", hidden: true }, this.#thinking, this.#thoughts);
  readonly #waiting = h("p", { class: "waiting" }, "Reading");
  readonly #markdown = new Markdown();
  readonly #sources = h("ul", { class: "sources", "aria-label": "Sources", hidden: true });
  readonly #outcome = h("div", { class: "outcome" });
  readonly #footer = h("footer", { class: "turn-footer", hidden: true });
  readonly #answer = h("section", { class: "answer" });
  #turn: Turn | undefined;
  #applied: Readonly<Record<string, Applied>> = {};

  constructor(private readonly host: Host) {
    const pencil = iconButton("edit", "Edit the question", { class: "icon edit", onclick: () => this.#edit() });
    this.#ask.append(this.#question, pencil, this.#chips, this.#pictures);
    this.#answer.append(
      this.#reasoning,
      this.#waiting,
      this.#markdown.element,
      this.#sources,
      this.#outcome,
      this.#footer,
    );
    this.element = h("article", { class: "turn" }, this.#ask, this.#answer);
  }

  update(turn: Turn, applied: Readonly<Record<string, Applied>>): void {
    const before = this.#turn;
    if (turn === before && applied === this.#applied) return;
    this.#turn = turn;
    if (turn.id !== before?.id) this.element.dataset.turn = turn.id;
    if (turn.question !== before?.question) this.#question.textContent = turn.question;
    if (turn.mentions !== before?.mentions) this.#showChips(turn);
    if (turn.images !== before?.images) this.#showPictures(turn.images);
    if (turn.model !== before?.model) this.#answer.setAttribute("aria-label", `Answer of ${turn.model || "the model"}`);
    if (turn.reasoning !== before?.reasoning) this.#showReasoning(turn.reasoning, before?.reasoning ?? "");
    if (turn.sources !== before?.sources) this.#showSources(turn.sources);
    if (turn.ending !== before?.ending || !before) this.#showEnding(turn);
    this.#markdown.update(turn.answer, turn.ending !== undefined);
    const quiet = turn.answer === "" && !turn.ending;
    show(this.#waiting, quiet);
    this.#waiting.textContent = turn.reasoning ? "Thinking" : "Reading";
    this.#thinking.textContent = quiet && turn.reasoning ? "Thoughts so far" : "Thoughts";
    if (applied !== this.#applied || turn.answer !== before?.answer) this.#mark(applied);
    this.#applied = applied;
  }

  #showChips(turn: Turn): void {
    showChips(this.#chips, turn.mentions, {
      open: ({ id }) => this.host.send({ type: "openMention", id, turn: turn.id }),
    });
  }

  #showPictures(images: readonly string[]): void {
    show(this.#pictures, images.length > 0);
    const shown = images.filter((image) => image.startsWith("data:image/"));
    fill(this.#pictures, ...shown.map((src, index) => h("li", {}, h("img", { src, alt: `picture ${index + 1}` }))));
  }

  #showReasoning(text: string, before: string): void {
    show(this.#reasoning, text !== "");
    const last = this.#thoughts.lastChild;
    if (last instanceof Text && text.startsWith(before)) last.appendData(text.slice(before.length));
    else this.#thoughts.textContent = text;
  }

  #showSources(sources: readonly Source[]): void {
    const links = sources.map(({ title, href }) => {
      const target = linkTarget(href);
      const props = target ? { role: "link", tabindex: 0, title: target, "data-href": target } : {};
      return h("li", {}, icon("docs"), target ? h("a", props, title) : h("span", {}, title));
    });
    show(this.#sources, links.length > 0);
    fill(this.#sources, ...links);
  }

  #showEnding(turn: Turn): void {
    const ending = turn.ending;
    // While it is written, screen readers wait; the end is announced with the whole.
    this.element.setAttribute("aria-busy", String(!ending));
    this.element.classList.toggle("running", !ending);
    fill(this.#outcome, ...(ending ? this.#outcomes(turn, ending) : []));
    show(this.#footer, ending !== undefined);
    if (ending) fill(this.#footer, stats(ending), this.#actions(turn));
  }

  #outcomes(turn: Turn, ending: Ending): HTMLElement[] {
    const shown: HTMLElement[] = [];
    const { fault } = ending;
    if (ending.stopped) shown.push(h("p", { class: "note" }, "Stopped."));
    else if (!fault && turn.answer.trim() === "")
      shown.push(h("p", { class: "note" }, "The model gave no answer. Ask again, or in other words."));
    if (ending.truncated) {
      const goOn = () =>
        this.host.send({ type: "ask", text: "Continue exactly where you stopped.", mentions: [], images: [] });
      const button = textButton("Continue", { onclick: goOn });
      shown.push(h("div", { class: "note" }, h("span", {}, "Cut at the limit of tokens for one answer. "), button));
    }
    if (fault) {
      const { command } = fault;
      const cure =
        command &&
        textButton(commandLabel(command), { onclick: () => this.host.send({ type: "command", name: command }) });
      const again = textButton("Retry", { class: "primary", onclick: () => this.#retry() });
      const words = h("p", {}, h("strong", {}, fault.message), fault.fix && ` ${fault.fix}`);
      shown.push(h("div", { class: "fault", role: "alert" }, words, h("div", { class: "buttons" }, again, cure)));
    }
    return shown;
  }

  #actions(turn: Turn): HTMLElement {
    const copy = iconButton("copy", "Copy the answer", { "data-action": "copyAnswer" });
    const retry = iconButton("retry", "Ask again", { onclick: () => this.#retry() });
    const role = { role: "group", "aria-label": "What to do with this answer", class: "turn-actions" };
    return h("span", role, turn.answer !== "" && copy, retry);
  }

  #retry(): void {
    if (this.#turn) this.host.send({ type: "retry", turn: this.#turn.id });
  }

  #edit(): void {
    const turn = this.#turn;
    if (!turn || this.element.querySelector(".question-editor")) return;
    const turns = this.host.view().chat?.current.turns ?? [];
    const later = Math.max(0, turns.length - 1 - turns.findIndex(({ id }) => id === turn.id));
    const close = (): void => {
      editor.element.remove();
      this.#ask.classList.remove("editing");
      this.#ask.querySelector<HTMLElement>("button.edit")?.focus();
    };
    const editor = new QuestionEditor(turn.question, later, {
      cancel: close,
      send: (text) => {
        this.host.send({ type: "edit", turn: turn.id, text });
        close();
      },
    });
    this.#ask.classList.add("editing");
    this.#ask.prepend(editor.element);
    editor.focus();
  }

  /** Show on each code block what became of applying it. */
  #mark(applied: Readonly<Record<string, Applied>>): void {
    for (const block of this.element.querySelectorAll<HTMLElement>(".code[data-block]")) {
      const result = applied[appliedKey(this.#turn?.id ?? "", Number(block.dataset.block))];
      const label = result ? [APPLIED[result.state], result.detail].filter(Boolean).join(": ") : "";
      const present = block.querySelector<HTMLElement>(".applied");
      if (!result) present?.remove();
      else if (present?.firstElementChild?.textContent !== label) {
        const decide = result.state === "shown" && [
          textButton("Accept", { class: "primary", "data-action": "accept" }),
          textButton("Discard", { "data-action": "discard" }),
        ];
        const buttons = decide && h("span", { class: "buttons" }, ...decide);
        const line = h("div", { class: `applied ${result.state}`, role: "status" }, h("span", {}, label), buttons);
        if (present) present.replaceWith(line);
        else block.append(line);
      }
    }
  }
}

/** `1,234 tokens, 1,100 cached (89 %), first token 85 ms`, with a small picture of cached and new. */
function stats(ending: Ending): HTMLElement | undefined {
  const words = cost(ending);
  if (words === "") return undefined;
  const share = cachedShare(ending.usage);
  const cached = h("span", { class: "cached" });
  if (share !== undefined) cached.style.width = `${share * 100}%`;
  const label = `${percent(share ?? 0)} of the prompt was in the cache`;
  const bar = share !== undefined && h("span", { class: "bar", role: "img", "aria-label": label }, cached);
  return h("span", { class: "stats", title: costDetail(ending) }, bar, h("span", {}, words));
}
