/** A document of the editor as the edit feature needs it. */

import * as vscode from "vscode";
import type { Applied, Changed, Surface } from "../features/edit/painter";
import type { TextChange } from "../features/edit/plan";

/** Edits go through a visible editor, as only there several of them can be one undo step. */
export class DocumentSurface implements Surface {
  constructor(public document: vscode.TextDocument) {}

  get eol(): string {
    return this.document.eol === vscode.EndOfLine.CRLF ? "\r\n" : "\n";
  }

  lines(): readonly string[] | undefined {
    return this.document.isClosed ? undefined : this.document.getText().split(this.eol);
  }

  async apply(changes: readonly TextChange[], undo: { before: boolean; after: boolean }): Promise<Applied> {
    const editor = editorOf(this.document);
    if (editor === undefined) return "hidden";
    const stops = { undoStopBefore: undo.before, undoStopAfter: undo.after };
    try {
      const applied = await editor.edit((builder) => {
        for (const change of changes) builder.replace(rangeOf(change), change.text);
      }, stops);
      return applied ? "applied" : "refused";
    } catch {
      return "hidden"; // the editor was closed meanwhile
    }
  }
}

export function editorOf(document: vscode.TextDocument): vscode.TextEditor | undefined {
  const active = vscode.window.activeTextEditor;
  if (active?.document === document) return active;
  return vscode.window.visibleTextEditors.find((editor) => editor.document === document);
}

export function rangeOf(change: TextChange): vscode.Range {
  return new vscode.Range(change.startLine, change.startCharacter, change.endLine, change.endCharacter);
}

export function changedOf(event: vscode.TextDocumentChangeEvent): Changed {
  const { Undo, Redo } = vscode.TextDocumentChangeReason;
  return {
    reason: event.reason === Undo ? "undo" : event.reason === Redo ? "redo" : undefined,
    changes: event.contentChanges.map(({ range, text }) => ({
      startLine: range.start.line,
      startCharacter: range.start.character,
      endLine: range.end.line,
      endCharacter: range.end.character,
      text,
    })),
  };
}

/** Why a document cannot be changed, as far as the editor tells beforehand. */
export async function whyLocked(document: vscode.TextDocument): Promise<string | undefined> {
  const { scheme } = document.uri;
  const locked = "This document is read-only, so it cannot be edited.";
  if (scheme === "output" || vscode.workspace.fs.isWritableFileSystem(scheme) === false) return locked;
  if (document.isUntitled) return undefined;
  try {
    const { permissions = 0 } = await vscode.workspace.fs.stat(document.uri);
    return permissions & vscode.FilePermission.Readonly ? locked : undefined;
  } catch {
    return undefined; // not on a disk: the editor will tell
  }
}
