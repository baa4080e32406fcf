/** Our icon for tabs and participants. As a file it has no colour to take over, so there is one for each kind of theme. */

import * as vscode from "vscode";

export function iconPath(extension: vscode.Uri): { readonly light: vscode.Uri; readonly dark: vscode.Uri } {
  const at = (name: string): vscode.Uri => vscode.Uri.joinPath(extension, "media", name);
  return { light: at("icon-light.svg"), dark: at("icon-dark.svg") };
}
