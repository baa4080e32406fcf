/** Edits of a selection or a file in the editor: the commands, one running edit per document. */

import * as vscode from "vscode";
import { Edit, type Parts } from "../features/edit/conductor";
import type { Message, Offer } from "../features/edit/trouble";
import { wholeLines } from "../features/edit/view";
import { secretIn } from "../features/workspace/rules";
import { askInstruction } from "./editBox";
import { changedOf, DocumentSurface, editorOf, rangeOf, whyLocked } from "./editDocument";
import { type EditTarget, EditViews } from "./editView";
import { choose, complain, inform } from "./say";
import type { Services } from "./services";

/** An edit, and the document it is in: another one once an untitled one was saved. */
interface Running {
  readonly edit: Edit;
  readonly surface: DocumentSurface;
}

const OFFERS: Readonly<Record<Offer, string>> = {
  again: "Try Again",
  change: "Change Instruction",
  key: "Enter the Key",
  setUp: "Set Up",
  acceptAll: "Accept All",
  rejectAll: "Reject All",
};
const NOTE_MS = 5000;

/** The commands `aicockpit.edit*`. `aicockpit.edit` may be given `{ instruction }`: then nothing is asked. */
export function register(services: Services): vscode.Disposable {
  const edits = new Edits(services);
  const { commands, window, workspace } = vscode;
  return vscode.Disposable.from(
    edits,
    commands.registerCommand("aicockpit.edit", (given) => edits.start(instructionOf(given))),
    commands.registerCommand("aicockpit.edit.followUp", (given) => edits.followUp(given)),
    commands.registerCommand("aicockpit.edit.stop", (given) => edits.stop(given)),
    commands.registerCommand("aicockpit.edit.accept", (given) => edits.decide("accept", given)),
    commands.registerCommand("aicockpit.edit.reject", (given) => edits.decide("reject", given)),
    commands.registerCommand("aicockpit.edit.acceptAll", (given) => edits.decideAll("accept", given)),
    commands.registerCommand("aicockpit.edit.rejectAll", (given) => edits.decideAll("reject", given)),
    workspace.onDidChangeTextDocument((event) => edits.changed(event)),
    workspace.onWillSaveTextDocument((event) => edits.saving(event)),
    workspace.onDidSaveTextDocument((document) => edits.at(document)?.edit.saved()),
    workspace.onDidCloseTextDocument((document) => edits.closed(document)),
    window.onDidChangeTextEditorSelection(({ textEditor, kind }) => {
      const byHand =
        kind === vscode.TextEditorSelectionChangeKind.Mouse || kind === vscode.TextEditorSelectionChangeKind.Keyboard;
      if (byHand) edits.at(textEditor.document)?.edit.moved();
    }),
    window.onDidChangeVisibleTextEditors((editors) => {
      for (const { document } of editors) edits.at(document)?.edit.seen();
    }),
  );
}

class Edits implements vscode.Disposable {
  readonly #running = new Map<string, Running>();
  readonly #views = new EditViews();
  readonly #toldOnce = new Set<string>();

  constructor(private readonly services: Services) {}

  at(document: vscode.TextDocument): Running | undefined {
    return this.#running.get(document.uri.toString());
  }

  /** Asks for an instruction and begins; with `given` it begins at once. */
  async start(given?: string, value = ""): Promise<void> {
    const editor = vscode.window.activeTextEditor;
    if (editor === undefined) return note("Open a file to edit it.");
    const { document } = editor;
    if (this.#isBusy(document)) return this.#settleFirst(document);
    if (editor.selections.length > 1) vscode.window.setStatusBarMessage("Only the first selection is edited.", NOTE_MS);
    if (!(await this.#maySend(document))) return;
    const { version } = document;
    // Asked for meanwhile: what is typed before the box is there would go into the text.
    const locked = whyLocked(document);
    const instruction = given ?? (await this.#ask(titleOf(editor), value, locked));
    const why = await locked;
    if (why !== undefined) return note(why);
    if (instruction === undefined || this.#isBusy(document)) return;
    if (document.version !== version) return note(CHANGED_MEANWHILE);
    const running = this.#begin(editor);
    await this.#run(running, running.edit.ask(instruction));
  }

  async followUp(given: unknown): Promise<void> {
    const running = await this.#target(given);
    if (running === undefined) return;
    const { edit, surface } = running;
    if (edit.state.phase !== "reviewing") return note("A follow-up is possible once the edit has come to its end.");
    const instruction = await this.#ask(`Follow up on the edit of ${nameOf(surface.document)}`);
    if (instruction !== undefined) await this.#run(running, edit.ask(instruction));
  }

  async stop(given: unknown): Promise<void> {
    (await this.#target(given))?.edit.stop();
  }

  async decideAll(verdict: "accept" | "reject", given: unknown): Promise<void> {
    const running = await this.#target(given);
    if (running === undefined) return;
    if (verdict === "accept" && running.edit.state.phase === "streaming") return note(STILL_STREAMING);
    await running.edit.decide(verdict);
  }

  /** The block given, else the one at the cursor, which then goes on to the next one. */
  async decide(verdict: "accept" | "reject", given: unknown): Promise<void> {
    const running = await this.#target(given);
    if (running === undefined) return;
    const { edit, surface } = running;
    if (edit.state.phase === "streaming") return note(STILL_STREAMING);
    const block = targetOf(given)?.block;
    if (block !== undefined) return edit.decide(verdict, block);
    const editor = editorOf(surface.document);
    if (editor === undefined) return;
    const here = edit.blockAtLine(editor.selection.active.line);
    if (here === undefined) return;
    await edit.decide(verdict, here);
    const next = edit.view.lenses.find((lens) => lens.block !== undefined && lens.line >= editor.selection.active.line);
    if (next !== undefined) goTo(editor, next.line);
  }

  changed(event: vscode.TextDocumentChangeEvent): void {
    if (event.contentChanges.length > 0) this.at(event.document)?.edit.changed(changedOf(event));
  }

  saving(event: vscode.TextDocumentWillSaveEvent): void {
    const running = this.at(event.document) ?? this.#adopt(event.document);
    if (running === undefined) return;
    if (running.edit.settling !== undefined) event.waitUntil(running.edit.settling);
    const late = event.reason === vscode.TextDocumentSaveReason.AfterDelay;
    const changes = running.edit.saving(late ? "by itself" : "asked");
    const edits = changes.map((change) => vscode.TextEdit.replace(rangeOf(change), change.text));
    if (edits.length > 0) event.waitUntil(Promise.resolve(edits));
  }

  /** A change of language closes a document and opens it again: only one that stays away is closed. */
  closed(document: vscode.TextDocument): void {
    setTimeout(() => {
      const running = this.at(document);
      if (running?.surface.document !== document || vscode.workspace.textDocuments.includes(document)) return;
      this.#running.delete(document.uri.toString());
      running.edit.closed();
    }, 0);
  }

  dispose(): void {
    for (const { edit } of this.#running.values()) edit.closed();
    this.#views.dispose();
  }

  #isBusy(document: vscode.TextDocument): boolean {
    const phase = this.at(document)?.edit.state.phase;
    return phase === "streaming" || phase === "reviewing";
  }

  async #settleFirst(document: vscode.TextDocument): Promise<void> {
    const text = `${nameOf(document)} has an edit that is not decided yet. Accept or reject it first.`;
    const target: EditTarget = { uri: document.uri.toString() };
    const choice = await inform(text, "Accept All", "Reject All", "Follow Up");
    if (choice === "Accept All") await this.decideAll("accept", target);
    if (choice === "Reject All") await this.decideAll("reject", target);
    if (choice === "Follow Up") await this.followUp(target);
  }

  #ask(title: string, value = "", closes?: Promise<string | undefined>): Promise<string | undefined> {
    return askInstruction(this.services.context.globalState, title, value, closes);
  }

  async #maySend(document: vscode.TextDocument): Promise<boolean> {
    const path = vscode.workspace.asRelativePath(document.uri, false);
    const why = secretIn(path, document.getText());
    if (why === undefined) return true;
    const detail = `To edit it, its text is sent to ${this.services.connection.gateway.address}.`;
    return (await choose(`${path} ${why}.`, detail, "Send It")) !== undefined;
  }

  #begin(editor: vscode.TextEditor): Running {
    const { document } = editor;
    const surface = new DocumentSurface(document);
    const lines = surface.lines() ?? [];
    const { span, whole } = selectionOf(editor);
    const place = this.services.folders.place(document.uri);
    const part = {
      path: place?.path ?? vscode.workspace.asRelativePath(document.uri, false),
      language: document.languageId,
      before: lines.slice(0, span.first),
      selected: lines.slice(span.first, span.last + 1),
      after: lines.slice(span.last + 1),
      whole,
    };
    const running: Running = {
      surface,
      edit: new Edit(
        this.#parts(surface, place, () => running),
        part,
        span.first,
      ),
    };
    this.#running.set(document.uri.toString(), running);
    return running;
  }

  #parts(surface: DocumentSurface, place: Parts["place"], running: () => Running): Parts {
    const { connection, config, timeline } = this.services;
    return {
      surface,
      gateway: () => connection.gateway,
      model: () => connection.chatModel(),
      connection: () => connection.state,
      settings: () => ({ instructions: config.instructions, maxTokens: config.chatMaxTokens }),
      place,
      uri: surface.document.uri.toString(),
      mac: process.platform === "darwin",
      timeline,
      now: () => performance.now(),
      pause: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)),
      met: (error) => connection.met(error),
      draw: (view) => this.#views.show(surface.document.uri, view),
      tell: (message) => void this.#tell(message, running()),
    };
  }

  /** Waits for an answer, says that it is waited for, and shows where the changes begin. */
  async #run({ edit, surface }: Running, answer: Promise<void>): Promise<void> {
    const { document } = surface;
    vscode.window.setStatusBarMessage(`$(loading~spin) Editing ${nameOf(document)}: Escape stops it`, answer);
    const restore = collapsed(editorOf(document));
    await answer;
    const { phase, outcome } = edit.state;
    this.services.log.debug(`edit of ${nameOf(document)}: ${phase} ${outcome}`);
    if (phase === "asking" || outcome === "unchanged" || outcome === "stopped") restore();
    if (phase !== "reviewing") return;
    const editor = editorOf(document);
    if (editor === undefined) return this.#ready(document);
    const first = edit.view.lenses.find((lens) => lens.block !== undefined)?.line;
    if (first !== undefined) {
      editor.revealRange(new vscode.Range(first, 0, first, 0), vscode.TextEditorRevealType.InCenterIfOutsideViewport);
    }
    if (vscode.workspace.getConfiguration("editor", document).get("codeLens") !== false) return;
    const count = edit.view.pending;
    const text = `${count} ${count === 1 ? "change is" : "changes are"} proposed in ${nameOf(document)}.`;
    void this.#tell({ level: "info", text, offers: ["acceptAll", "rejectAll"] }, { edit, surface });
  }

  #ready(document: vscode.TextDocument): void {
    const text = `The edit of ${nameOf(document)} is ready to be reviewed.`;
    void inform(text, "Show").then((chosen) => {
      if (chosen !== undefined) void vscode.window.showTextDocument(document);
    });
  }

  async #tell(message: Message, running: Running): Promise<void> {
    if (message.once !== undefined && this.#toldOnce.has(message.once)) return;
    if (message.once !== undefined) this.#toldOnce.add(message.once);
    const show = message.level === "error" ? complain : inform;
    const chosen = await show(message.text, ...message.offers.map((offer) => OFFERS[offer]));
    const offer = message.offers.find((one) => OFFERS[one] === chosen);
    if (offer !== undefined) await this.#take(offer, running);
  }

  async #take(offer: Offer, running: Running): Promise<void> {
    const { edit, surface } = running;
    const target: EditTarget = { uri: surface.document.uri.toString() };
    if (offer === "acceptAll") return this.decideAll("accept", target);
    if (offer === "rejectAll") return this.decideAll("reject", target);
    if (offer === "change") return this.#change(running);
    if (offer === "key") await vscode.commands.executeCommand("aicockpit.setKey");
    if (offer === "setUp") await vscode.commands.executeCommand("aicockpit.setUp");
    await this.#run(running, edit.again());
  }

  /** The instruction once more, to be changed. */
  async #change(running: Running): Promise<void> {
    const { edit, surface } = running;
    const { phase, instruction } = edit.state;
    if (phase === "done") {
      const editor = await vscode.window.showTextDocument(surface.document);
      const part = edit.view.part;
      if (part !== undefined && !edit.part.whole) {
        const end = surface.document.lineAt(part.last).range.end;
        editor.selection = new vscode.Selection(new vscode.Position(part.first, 0), end);
      }
      return this.start(undefined, instruction);
    }
    const changed = await this.#ask(`Edit ${nameOf(surface.document)}`, instruction);
    if (changed !== undefined) await this.#run(running, edit.ask(changed));
  }

  /** The edit that a command is about: of the document it names, of the active one, or the only one there is. */
  async #target(given: unknown): Promise<Running | undefined> {
    const named = targetOf(given)?.uri;
    const active = vscode.window.activeTextEditor?.document;
    const here = named !== undefined ? this.#running.get(named) : active && this.at(active);
    const busy = [...this.#running.values()].filter(({ surface }) => this.#isBusy(surface.document));
    const running = here !== undefined && busy.includes(here) ? here : busy.length === 1 ? busy[0] : undefined;
    if (running === undefined) {
      note("There is no edit to decide on here.");
      return undefined;
    }
    if (editorOf(running.surface.document) === undefined)
      await vscode.window.showTextDocument(running.surface.document);
    return running;
  }

  /** An untitled document becomes a file when it is saved: its edit goes along. */
  #adopt(document: vscode.TextDocument): Running | undefined {
    const untitled = [...this.#running].find(
      ([, { surface }]) => surface.document.isUntitled && surface.document.getText() === document.getText(),
    );
    if (untitled === undefined) return undefined;
    const [uri, running] = untitled;
    this.#running.delete(uri);
    this.#views.show(running.surface.document.uri, undefined);
    running.surface.document = document;
    this.#running.set(document.uri.toString(), running);
    return running;
  }
}

const CHANGED_MEANWHILE =
  "The text changed while the instruction was typed. Select again; the instruction is the first in the list.";
const STILL_STREAMING = "The edit is still running; Escape stops it.";

function selectionOf(editor: vscode.TextEditor): ReturnType<typeof wholeLines> {
  const { start, end } = editor.selections[0] ?? editor.selection;
  const selection = {
    startLine: start.line,
    startCharacter: start.character,
    endLine: end.line,
    endCharacter: end.character,
  };
  return wholeLines(selection, editor.document.lineCount);
}

function titleOf(editor: vscode.TextEditor): string {
  const { span, whole } = selectionOf(editor);
  if (whole) return `Edit all of ${nameOf(editor.document)}`;
  const lines = span.first === span.last ? `line ${span.first + 1}` : `lines ${span.first + 1} to ${span.last + 1}`;
  return `Edit ${lines} of ${nameOf(editor.document)}`;
}

function nameOf(document: vscode.TextDocument): string {
  return document.uri.path.split("/").at(-1) ?? document.uri.path;
}

/** A selection would hide the colours of the lines: it is put back if nothing comes of the edit. */
function collapsed(editor: vscode.TextEditor | undefined): () => void {
  const before = editor?.selection;
  if (editor === undefined || before === undefined || before.isEmpty) return () => {};
  const now = new vscode.Selection(before.start, before.start);
  editor.selection = now;
  return () => {
    if (editor.selection.isEqual(now)) editor.selection = before;
  };
}

function goTo(editor: vscode.TextEditor, line: number): void {
  editor.selection = new vscode.Selection(line, 0, line, 0);
  editor.revealRange(editor.selection, vscode.TextEditorRevealType.InCenterIfOutsideViewport);
}

function note(text: string): void {
  void inform(text);
}

function instructionOf(given: unknown): string | undefined {
  const { instruction } = (typeof given === "object" && given !== null ? given : {}) as { instruction?: unknown };
  return typeof instruction === "string" && instruction.trim() !== "" ? instruction : undefined;
}

function targetOf(given: unknown): EditTarget | undefined {
  const target = (typeof given === "object" && given !== null ? given : {}) as Partial<EditTarget>;
  return typeof target.uri === "string" ? (target as EditTarget) : undefined;
}
