/** Inline completion in the editor: turns its events into asks, and suggestions into ghost text. */

import * as vscode from "vscode";
import type { Place } from "../api/gateway";
import { type Caret, caretAfter } from "../features/completion/caret";
import { Focus } from "../features/completion/focus";
import { isOn, refusal } from "../features/completion/permission";
import { Session, type Suggestion } from "../features/completion/session";
import { SNOOZES, SnoozeState } from "../features/completion/snooze";
import { type Ask, preambleOf, type Selected } from "../features/completion/spot";
import type { ConnectionState } from "../features/states";
import type { Trace } from "../features/timeline";
import { inform } from "./say";
import type { Services } from "./services";

/** Where ghost text appears: files, new ones, notebooks; never the inputs of chat and source control, nor output. */
const NOTEBOOK = "vscode-notebook-cell";
const SCHEMES = ["file", "untitled", NOTEBOOK, "vscode-vfs"];
const SELECTOR: vscode.DocumentSelector = SCHEMES.map((scheme) => ({ scheme }));
const ACCEPTED = "aicockpit.completion.accepted";
/** The editor answers our own call within this time, also from afar; later it was the user who asked. */
const REFRESH_MS = 1_000;
const SAID_MS = 4_000;
/** Who is asked later than this after a keystroke is not asked because of it. */
const KEYSTROKE_MS = 1_000;

export function register(services: Services): vscode.Disposable & { readonly snooze: SnoozeState } {
  const completion = new Completion(services);
  const { snooze } = completion;
  const parts = vscode.Disposable.from(completion, ...completion.listen(), ...commands(services, snooze));
  return { snooze, dispose: () => parts.dispose() };
}

class Completion implements vscode.InlineCompletionItemProvider, vscode.Disposable {
  readonly snooze = new SnoozeState();
  readonly #session: Session;
  readonly #focus: Focus;
  #model: string | undefined;
  #typed = { uri: "", version: -1, at: 0 };
  #refreshed = Number.NEGATIVE_INFINITY;

  constructor(private readonly services: Services) {
    const { config, connection, timeline } = services;
    this.#session = new Session({
      gateway: connection.gateway,
      timeline,
      clock,
      slot: `completion-${vscode.env.sessionId}`,
      met: (error) => connection.met(error),
      more: (ask) => this.#refresh(ask),
      options: () => ({
        model: this.#model ?? "",
        maxTokens: config.completionMaxTokens,
        multiline: config.multiline,
        candidates: config.candidates,
      }),
    });
    this.#focus = new Focus((workspace, path, line) => this.#tellFocus(workspace, path, line), clock);
    void this.#learnModel();
  }

  listen(): vscode.Disposable[] {
    const { config, connection, folders } = this.services;
    const changed = () => {
      this.#session.reset();
      void this.#learnModel();
    };
    return [
      vscode.languages.registerInlineCompletionItemProvider(SELECTOR, this),
      vscode.workspace.onDidChangeTextDocument((event) => this.#ahead(event)),
      vscode.window.onDidChangeTextEditorSelection((event) => this.#moved(event)),
      vscode.window.onDidChangeActiveTextEditor((editor) => this.#opened(editor)),
      vscode.commands.registerCommand(ACCEPTED, (trace: Trace) => this.#session.accepted(trace)),
      folders.onChange(() => {
        this.#focus.forget();
        this.#opened(vscode.window.activeTextEditor);
      }),
      connection.onChange(() => void this.#learnModel()),
      config.onChange(changed),
    ];
  }

  async provideInlineCompletionItems(
    document: vscode.TextDocument,
    position: vscode.Position,
    context: vscode.InlineCompletionContext,
    token: vscode.CancellationToken,
  ): Promise<vscode.InlineCompletionItem[]> {
    const explicit = context.triggerKind === vscode.InlineCompletionTriggerKind.Invoke && !this.#isRefresh();
    const ask = this.#ask(document, position, explicit, selectedIn(context, position));
    const why = this.#refusal(document, explicit);
    if (why !== undefined) return this.#nothing(ask, why);
    if (this.#model === undefined) await this.#learnModel();
    if (this.#model === undefined) return this.#nothing(ask, "the server has no model for completion");
    const [signal, release] = signalOf(token);
    try {
      const found = await this.#session.suggest(ask, signal);
      if (explicit && found.length === 0 && !signal.aborted) this.#sayWhy();
      return found.map((one) => itemOf(one, position.line));
    } finally {
      release();
    }
  }

  dispose(): void {
    this.#session.dispose();
    this.#focus.dispose();
    this.snooze.dispose();
  }

  /** The request leaves with the keystroke; the editor itself asks some 50 ms later. */
  #ahead(event: vscode.TextDocumentChangeEvent): void {
    const { document, contentChanges, reason } = event;
    const editor = vscode.window.activeTextEditor;
    if (contentChanges.length === 0 || !isOurs(document)) return;
    this.#typed = { uri: document.uri.toString(), version: document.version, at: clock() };
    if (editor?.document !== document || editor.selections.length !== 1 || reason !== undefined) return;
    const change = contentChanges.length === 1 ? contentChanges[0] : undefined;
    const caret = change && caretAfter(change.range.start, change.range.end, change.text, editor.selection.active);
    if (caret === undefined || this.#model === undefined) return;
    if (this.#refusal(document, false) !== undefined) return;
    this.#session.ahead(this.#ask(document, caret, false));
  }

  #moved(event: vscode.TextEditorSelectionChangeEvent): void {
    const { textEditor, selections } = event;
    const { document } = textEditor;
    if (textEditor !== vscode.window.activeTextEditor || !isOurs(document)) return;
    const at = textEditor.selection.active;
    const plain = selections.length === 1 && textEditor.selection.isEmpty;
    this.#session.moved(plain ? document.uri.toString() : "", at.line, at.character);
    this.#tellPlace(textEditor);
  }

  #opened(editor: vscode.TextEditor | undefined): void {
    if (editor === undefined || !isOurs(editor.document)) return;
    this.#tellPlace(editor);
  }

  #tellPlace(editor: vscode.TextEditor): void {
    if (this.services.connection.state.kind !== "ready") return;
    const place = this.services.folders.place(editor.document.uri);
    if (place?.path !== undefined) this.#focus.at(place.workspace, place.path, editor.selection.active.line);
  }

  #tellFocus(workspace: string, path: string, line: number): void {
    const { connection, log } = this.services;
    connection.gateway.focus(workspace, path, line, this.#model).catch((error: unknown) => {
      this.#focus.forget();
      log.debug(`focus on ${path}: ${error instanceof Error ? error.message : String(error)}`);
    });
  }

  #refusal(document: vscode.TextDocument, explicit: boolean): string | undefined {
    const { config, connection } = this.services;
    return refusal({
      explicit,
      trigger: config.trigger,
      languages: config.languages,
      language: document.languageId,
      snoozed: this.snooze.left,
      path: vscode.workspace.asRelativePath(document.uri, false),
      unready: unready(connection.state),
    });
  }

  #nothing(ask: Ask, why: string): vscode.InlineCompletionItem[] {
    this.#lookAgain();
    this.#session.refuse(ask, why);
    if (ask.explicit) this.#sayWhy();
    return [];
  }

  /** Who types waits for the server: look sooner than by itself. */
  #lookAgain(): void {
    const { connection } = this.services;
    if (connection.state.kind === "offline" || connection.state.kind === "no_model") void connection.models();
  }

  /** Who asks by key and gets nothing is told why. */
  #sayWhy(): void {
    const why = this.services.timeline.last("completion")?.why ?? "";
    vscode.window.setStatusBarMessage(`No completion: ${why === "" ? "nothing was found" : why}`, SAID_MS);
  }

  #ask(document: vscode.TextDocument, at: Caret, explicit: boolean, selected?: Selected): Ask {
    const uri = document.uri.toString();
    const { folders, config } = this.services;
    const place = folders.place(document.uri);
    const options = vscode.window.activeTextEditor?.document === document ? vscode.window.activeTextEditor.options : {};
    const { version, at: typedAt } = this.#typed;
    const isNew = this.#typed.uri === uri && version === document.version && clock() - typedAt < KEYSTROKE_MS;
    return {
      uri,
      what: `${nameOf(document)}:${at.line + 1}`,
      language: document.languageId,
      source: { lineCount: document.lineCount, line: (index) => document.lineAt(index).text },
      line: at.line,
      character: at.character,
      explicit,
      began: isNew && !explicit ? typedAt : clock(),
      ...(place !== undefined && { place: { ...place, context: config.context } satisfies Place }),
      ...(typeof options.tabSize === "number" && {
        indent: { tabs: options.insertSpaces === false, size: options.tabSize },
      }),
      ...(selected !== undefined && { selected }),
      ...(document.uri.scheme === NOTEBOOK && { preamble: preambleOf(cellsAbove(document)) }),
    };
  }

  async #learnModel(): Promise<void> {
    if (this.services.connection.state.kind !== "ready") return;
    const model = await this.services.connection.completionModel().catch(() => undefined);
    if (model?.id !== this.#model) this.#session.reset();
    this.#model = model?.id;
  }

  /** The rest of what is shown has come: let the editor ask once more. It would keep what it shows, so that goes first. */
  #refresh(ask: Ask): void {
    const editor = vscode.window.activeTextEditor;
    if (editor?.document.uri.toString() !== ask.uri) return;
    if (!editor.selection.active.isEqual(new vscode.Position(ask.line, ask.character))) return;
    this.#refreshed = clock();
    void vscode.commands.executeCommand("editor.action.inlineSuggest.hide");
    void vscode.commands.executeCommand("editor.action.inlineSuggest.trigger");
  }

  #isRefresh(): boolean {
    const own = clock() - this.#refreshed < REFRESH_MS;
    this.#refreshed = Number.NEGATIVE_INFINITY;
    return own;
  }
}

function commands(services: Services, snooze: SnoozeState): vscode.Disposable[] {
  const { registerCommand } = vscode.commands;
  return [
    registerCommand("aicockpit.completion.trigger", () =>
      vscode.commands.executeCommand("editor.action.inlineSuggest.trigger"),
    ),
    registerCommand("aicockpit.completion.toggleLanguage", () => toggleLanguage(services)),
    registerCommand("aicockpit.completion.snooze", (minutes?: unknown) => pickSnooze(snooze, minutes)),
    registerCommand("aicockpit.completion.wake", () => snooze.wake()),
  ];
}

async function toggleLanguage({ config }: Services): Promise<void> {
  const language = vscode.window.activeTextEditor?.document.languageId;
  if (language === undefined) {
    await inform("Open a file first: its language is switched on or off.");
    return;
  }
  const on = !isOn(config.languages, language);
  await config.setLanguage(language, on);
  vscode.window.setStatusBarMessage(`Completion for ${language} is ${on ? "on" : "off"}`, SAID_MS);
}

/** `minutes` where another command or a key has chosen already. */
async function pickSnooze(snooze: SnoozeState, minutes: unknown): Promise<void> {
  if (typeof minutes === "number" && minutes > 0) return snooze.snooze(minutes);
  const items = [
    ...SNOOZES.map((value) => ({ label: `For ${value} minutes`, value })),
    { label: "Until the editor starts again", value: Number.POSITIVE_INFINITY },
  ];
  const picked = await vscode.window.showQuickPick(items, { title: "Snooze completions" });
  if (picked !== undefined) snooze.snooze(picked.value);
}

function itemOf(suggestion: Suggestion, line: number): vscode.InlineCompletionItem {
  const range = new vscode.Range(line, suggestion.from, line, suggestion.to);
  const command = { command: ACCEPTED, title: "", arguments: [suggestion.trace] };
  return new vscode.InlineCompletionItem(suggestion.text, range, command);
}

/** An item of the suggest list, where its range is on the cursor's line. */
function selectedIn(context: vscode.InlineCompletionContext, at: vscode.Position): Selected | undefined {
  const info = context.selectedCompletionInfo;
  if (info === undefined || !info.range.isSingleLine || info.range.start.line !== at.line) return undefined;
  return { text: info.text, start: info.range.start.character, end: info.range.end.character };
}

function unready(state: ConnectionState): string {
  switch (state.kind) {
    case "ready":
      return "";
    case "unknown":
      return "the server has not been reached yet";
    case "no_key":
      return "no key is set: run AiCockpit: Set Up";
    case "offline":
      return `${state.why} ${state.fix}`;
    default:
      return state.why;
  }
}

/** Code in the same language. */
function cellsAbove(document: vscode.TextDocument): readonly string[] {
  for (const notebook of vscode.workspace.notebookDocuments) {
    const cells = notebook.getCells();
    const at = cells.findIndex((cell) => cell.document === document);
    if (at < 0) continue;
    const same = cells.slice(0, at).filter((cell) => cell.document.languageId === document.languageId);
    return same.map((cell) => cell.document.getText());
  }
  return [];
}

function isOurs(document: vscode.TextDocument): boolean {
  return SCHEMES.includes(document.uri.scheme);
}

function nameOf(document: vscode.TextDocument): string {
  const { path } = document.uri;
  return path.slice(path.lastIndexOf("/") + 1);
}

function clock(): number {
  return performance.now();
}

function signalOf(token: vscode.CancellationToken): [AbortSignal, () => void] {
  const controller = new AbortController();
  if (token.isCancellationRequested) controller.abort();
  const listener = token.onCancellationRequested(() => controller.abort());
  return [controller.signal, () => listener.dispose()];
}
