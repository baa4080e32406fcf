/** Draws edits: colours of old and new lines, what can be clicked above them, and the context keys. */

import * as vscode from "vscode";
import type { Span, View } from "../features/edit/view";

const AGAIN_MS = 500;

/** What a click hands to its command. */
export interface EditTarget {
  readonly uri: string;
  readonly block?: number;
}

/** The views of all documents with an edit. */
export class EditViews implements vscode.CodeLensProvider, vscode.Disposable {
  #views = new Map<string, View>();
  #lensesChanged = new vscode.EventEmitter<void>();
  readonly onDidChangeCodeLenses = this.#lensesChanged.event;
  #old = decoration("-", "#f85149", "diffEditor.removedLineBackground", "editorOverviewRuler.deletedForeground");
  #new = decoration("+", "#2ea043", "diffEditor.insertedLineBackground", "editorOverviewRuler.addedForeground");
  #keys = new Map<string, boolean>();
  #again: ReturnType<typeof setTimeout> | undefined;
  #parts: vscode.Disposable[] = [
    vscode.languages.registerCodeLensProvider({ pattern: "**" }, this),
    vscode.window.onDidChangeVisibleTextEditors(() => this.#drawAll()),
    vscode.window.onDidChangeActiveTextEditor(() => this.#setKeys()),
  ];

  /** Shows a view; one that is done, or undefined, is wiped out. */
  show(uri: vscode.Uri, view: View | undefined): void {
    const key = uri.toString();
    const before = this.#views.get(key);
    if (before === undefined && (view === undefined || view.phase === "done")) return;
    if (view === undefined || view.phase === "done") this.#views.delete(key);
    else this.#views.set(key, view);
    for (const editor of vscode.window.visibleTextEditors)
      if (editor.document.uri.toString() === key) this.#draw(editor);
    if (JSON.stringify(before?.lenses) !== JSON.stringify(this.#views.get(key)?.lenses)) this.#lensesChanged.fire();
    if (!this.#views.has(key)) this.#fireAgain();
    this.#setKeys();
  }

  /** The editor asks for lenses 250 ms after it was told, and not at all if it loses the focus meanwhile: dead ones stay. */
  #fireAgain(): void {
    clearTimeout(this.#again);
    this.#again = setTimeout(() => this.#lensesChanged.fire(), AGAIN_MS);
  }

  provideCodeLenses(document: vscode.TextDocument): vscode.CodeLens[] {
    const uri = document.uri.toString();
    return (this.#views.get(uri)?.lenses ?? []).map(({ line, title, command, block }) => {
      const target: EditTarget = { uri, ...(block !== undefined && { block }) };
      return new vscode.CodeLens(new vscode.Range(line, 0, line, 0), { title, command, arguments: [target] });
    });
  }

  dispose(): void {
    clearTimeout(this.#again);
    for (const part of [this.#old, this.#new, this.#lensesChanged, ...this.#parts]) part.dispose();
  }

  #drawAll(): void {
    for (const editor of vscode.window.visibleTextEditors) this.#draw(editor);
    this.#setKeys();
  }

  #draw(editor: vscode.TextEditor): void {
    const view = this.#views.get(editor.document.uri.toString());
    editor.setDecorations(this.#old, ranges(view?.old ?? []));
    editor.setDecorations(this.#new, ranges(view?.new ?? []));
  }

  #setKeys(): void {
    const active = vscode.window.activeTextEditor?.document.uri.toString() ?? "";
    const here = this.#views.get(active);
    const busy = (view: View | undefined) => view?.phase === "streaming" || view?.phase === "reviewing";
    this.#setKey("aicockpit.editing", [...this.#views.values()].some(busy));
    this.#setKey("aicockpit.editingHere", busy(here));
    this.#setKey("aicockpit.editStreaming", here?.phase === "streaming");
  }

  #setKey(name: string, value: boolean): void {
    if (this.#keys.get(name) === value) return;
    this.#keys.set(name, value);
    void vscode.commands.executeCommand("setContext", name, value);
  }
}

function ranges(spans: readonly Span[]): vscode.Range[] {
  return spans.map(({ first, last }) => new vscode.Range(first, 0, last, 0));
}

function decoration(sign: string, color: string, background: string, ruler: string): vscode.TextEditorDecorationType {
  const svg =
    `<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16"><text x="8" y="12" text-anchor="middle" ` +
    `font-family="monospace" font-size="14" font-weight="bold" fill="${color}">${sign}</text></svg>`;
  return vscode.window.createTextEditorDecorationType({
    isWholeLine: true,
    backgroundColor: new vscode.ThemeColor(background),
    overviewRulerColor: new vscode.ThemeColor(ruler),
    overviewRulerLane: vscode.OverviewRulerLane.Full,
    gutterIconPath: vscode.Uri.parse(`data:image/svg+xml;base64,${Buffer.from(svg).toString("base64")}`),
    gutterIconSize: "contain",
    rangeBehavior: vscode.DecorationRangeBehavior.ClosedClosed,
  });
}
