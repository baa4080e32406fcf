/** Where a question of the chat belongs: the workspace of the active file, without the file; a chat gets pack and journal. */

import * as vscode from "vscode";
import type { Place } from "../api/gateway";
import type { Services } from "./services";

/** Undefined: in no folder that is kept warm. */
export function chatPlace(services: Services): Place | undefined {
  const active = vscode.window.activeTextEditor?.document.uri;
  let place = services.folders.place(active);
  for (const folder of vscode.workspace.workspaceFolders ?? []) {
    // The folder itself is no document: any name in it tells the same.
    place ??= services.folders.place(vscode.Uri.joinPath(folder.uri, "any"));
  }
  if (place === undefined) return undefined;
  return { workspace: place.workspace, ...(place.context !== undefined && { context: place.context }) };
}
