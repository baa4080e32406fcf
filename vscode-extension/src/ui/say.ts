/**
 * Messages to people. The editor makes links of `[text](command:…)` in them, which run commands: words of models, servers
 * and files must not become any, so all messages go this way (`scripts/arrows.mjs` holds it).
 */

import * as vscode from "vscode";
import { withoutLinks } from "../features/terminal/confirm";

type Say = (text: string, ...choices: readonly string[]) => Thenable<string | undefined>;

export const inform: Say = (text, ...choices) => vscode.window.showInformationMessage(withoutLinks(text), ...choices);
export const warn: Say = (text, ...choices) => vscode.window.showWarningMessage(withoutLinks(text), ...choices);
export const complain: Say = (text, ...choices) => vscode.window.showErrorMessage(withoutLinks(text), ...choices);

/** Waits for a choice in the middle of the screen; undefined: none was made. */
export function choose(text: string, detail: string, ...choices: readonly string[]): Thenable<string | undefined> {
  return vscode.window.showWarningMessage(withoutLinks(text), { modal: true, detail }, ...choices);
}
