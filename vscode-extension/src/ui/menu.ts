/** The menu behind the status bar's item, and the command that shows the log. */

import * as vscode from "vscode";
import { menuRows } from "../features/menu";
import type { StatusInput } from "../features/status";
import type { Services } from "./services";

/** `aicockpit.log`. The menu's own command belongs to the status bar, which knows what to show in it. */
export function register(services: Services): vscode.Disposable {
  return vscode.commands.registerCommand("aicockpit.log", () => services.log.show());
}

interface Item extends vscode.QuickPickItem {
  readonly command: string | undefined;
}

/** Shows the menu and runs what is chosen. */
export async function openMenu(input: StatusInput): Promise<void> {
  const items = menuRows(input).map(
    (row): Item => ({
      label: row.icon === undefined ? row.label : `$(${row.icon}) ${row.label}`,
      command: row.command,
      ...(row.detail !== undefined && { description: row.detail }),
      ...(row.separator === true && { kind: vscode.QuickPickItemKind.Separator }),
    }),
  );
  const chosen = await vscode.window.showQuickPick(items, { title: "AiCockpit", placeHolder: "What to do" });
  if (chosen?.command !== undefined) await vscode.commands.executeCommand(chosen.command);
}
