/** What stands there before the first question: what one can do, and how the server and the folder are. */

import type { ConnectionView, FolderView, PageCommand } from "../../features/chat/protocol";
import { percent } from "../../features/figures";
import { fill, h, show, textButton } from "./h";
import { commandLabel, type Host, oneLine } from "./host";
import { icon } from "./icons";
import { ago } from "./numbers";
import type { View } from "./state";

const RECENT = 3;
const EXAMPLES: readonly string[] = [
  "How does this repository start up, and where?",
  "Explain @selection and what could go wrong in it.",
  "Why does @problems complain, and what is the smallest fix?",
];

export class Empty {
  readonly element: HTMLElement;
  readonly #folder = h("div", { class: "folder-line" });
  readonly #recent = h("ul", { class: "recent", "aria-label": "Earlier chats" });
  #drawn: View | undefined;

  constructor(
    private readonly host: Host,
    put: (text: string) => void,
  ) {
    const examples = EXAMPLES.map((text) =>
      h("li", {}, textButton(text, { class: "example", onclick: () => put(text) })),
    );
    this.element = h(
      "section",
      { class: "empty", "aria-label": "What you can do here" },
      h("h2", {}, "Ask about your code"),
      h(
        "p",
        {},
        "Answers come from your own server. Add context with ",
        h("kbd", {}, "@"),
        ", or hold Shift and drag files into the question.",
      ),
      this.#folder,
      h("ul", { class: "examples", "aria-label": "Examples" }, ...examples),
      this.#recent,
    );
  }

  update(view: View): void {
    const before = this.#drawn;
    this.#drawn = view;
    const chat = view.chat;
    show(this.element, chat !== undefined && chat.current.turns.length === 0);
    if (!chat) return;
    if (!before?.chat || chat.folder !== before.chat.folder || chat.connection !== before.chat.connection) {
      fill(this.#folder, ...this.#folderLine(chat.folder, chat.connection));
    }
    if (chat.conversations !== before?.chat?.conversations) this.#showRecent(view);
  }

  #folderLine(folder: FolderView | undefined, connection: ConnectionView): (Node | undefined)[] {
    if (connection.kind !== "ready" && connection.kind !== "unknown") return [];
    if (folder) return [icon("folderWarm"), h("span", { title: folder.why }, folderWords(folder))];
    const sync: PageCommand = "workspace.sync";
    const words = h("span", {}, "This folder is not kept warm, so answers begin later and know less of it. ");
    const button = textButton(commandLabel(sync), {
      class: "link",
      onclick: () => this.host.send({ type: "command", name: sync }),
    });
    return [icon("folder"), h("span", {}, words, button)];
  }

  #showRecent(view: View): void {
    const heads = view.chat?.conversations.filter(({ id }) => id !== view.chat?.current.id).slice(0, RECENT) ?? [];
    show(this.#recent, heads.length > 0);
    const rows = heads.map(({ id, title, at }) =>
      h(
        "li",
        {},
        textButton(title || "Untitled", {
          class: "link",
          onclick: () => this.host.send({ type: "openConversation", id }),
        }),
        h("span", { class: "conversation-when" }, ago(at, Date.now())),
      ),
    );
    const more = textButton("All earlier chats", {
      class: "link",
      onclick: () => this.host.act({ type: "historyOpened" }),
    });
    fill(this.#recent, ...rows, h("li", {}, more));
  }
}

/** How warm a folder is, in words. */
export function folderWords(folder: FolderView): string {
  const share = folder.share === undefined ? "" : ` ${percent(folder.share)}`;
  switch (folder.state) {
    case "syncing":
      return `${folder.name}: files are being sent${share}.`;
    case "warming":
      return `${folder.name}: warming${share}. You can ask already.`;
    case "warm":
      return `${folder.name} is warm: answers know your code and begin at once.`;
    case "cold":
      return `${folder.name} is cold: the first answer takes longer.`;
    case "off":
      return `${folder.name} is not kept warm. ${folder.why}`.trim();
    case "failed":
      return `${folder.name} could not be kept warm. ${folder.why}`.trim();
  }
}

const CURES: Readonly<Record<ConnectionView["kind"], PageCommand | undefined>> = {
  ready: undefined,
  unknown: undefined,
  no_key: "setKey",
  unauthorized: "setKey",
  offline: "check",
  no_model: "check",
};

/** A line on top while the server is not there, with the remedy; not where the last answer says the same. */
export class Banner {
  readonly element = h("div", { class: "banner", role: "status", hidden: true });
  #shown: ConnectionView | undefined;

  constructor(private readonly host: Host) {}

  update(view: View): void {
    const connection = view.chat?.connection;
    if (!connection) return;
    const cure = CURES[connection.kind];
    const told = view.chat?.current.turns.at(-1)?.ending?.fault?.message === connection.why;
    show(this.element, cure !== undefined && !(told && connection.why !== ""));
    if (connection === this.#shown || !cure) return;
    this.#shown = connection;
    const words = oneLine({ message: connection.why || fallback(connection.kind), fix: connection.fix });
    const send = (name: PageCommand) => () => this.host.send({ type: "command", name });
    const buttons = [textButton(commandLabel(cure), { onclick: send(cure) })];
    if (cure !== "setKey") buttons.push(textButton(commandLabel("setUp"), { onclick: send("setUp") }));
    fill(this.element, icon("problems"), h("span", {}, words), h("span", { class: "buttons" }, ...buttons));
  }
}

function fallback(kind: ConnectionView["kind"]): string {
  if (kind === "no_key" || kind === "unauthorized") return "The server wants a key.";
  return kind === "offline" ? "The server cannot be reached." : "The server has no model for chat.";
}
