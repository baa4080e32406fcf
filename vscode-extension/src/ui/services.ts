/** What `extension.ts` makes once and every adapter gets. */

import type * as vscode from "vscode";
import type { Gateway, Model, Place, WorkspaceStatus } from "../api/gateway";
import type { ConnectionState, FolderStatus } from "../features/states";
import type { Timeline } from "../features/timeline";
import type { Config } from "./config";

export interface Services {
  readonly context: vscode.ExtensionContext;
  readonly log: vscode.LogOutputChannel;
  readonly config: Config;
  readonly timeline: Timeline;
  readonly connection: Connection;
  readonly folders: Folders;
}

/** The server, as far as it is known. `ui/connection.ts`. */
export interface Connection {
  /** Always there; follows the settings. A call to a server that is away throws a Fault. */
  readonly gateway: Gateway;
  readonly state: ConnectionState;
  readonly onChange: vscode.Event<ConnectionState>;
  /** The models of the settings, else what the server has; undefined: none is served. */
  completionModel(): Promise<Model | undefined>;
  chatModel(): Promise<Model | undefined>;
  models(): Promise<readonly Model[]>;
  /** Look again now; who meets a Fault calls `met`. */
  refresh(): Promise<ConnectionState>;
  /** Tell of a fault, or of a success (undefined), met while working, so that the status bar follows at once. */
  met(error: unknown): void;
}

/** The opened folders and their workspaces on the server. `ui/folders.ts`. */
export interface Folders {
  /** Where a request about this document belongs; undefined: in no synced folder. */
  place(uri: vscode.Uri | undefined): Place | undefined;
  readonly onChange: vscode.Event<void>;
  /** Of the folder that matters now (the active editor's, else the first). */
  status(): FolderStatus | undefined;
  /** Somebody asked the server for a workspace: `status` follows. */
  saw(workspace: WorkspaceStatus): void;
}
