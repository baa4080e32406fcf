/** Addresses of servers as people write them, and which machine an address is seen from. */

import { BlockList, isIP } from "node:net";
import { Fault } from "./fault";

/** What the setting says when nobody has set it. */
export const DEFAULT_ADDRESS = "http://127.0.0.1:8000";

const EXAMPLE = "Write it like http://127.0.0.1:8000 or https://gpu.example.org.";

/**
 * The address in its one spelling: scheme, host, port and, behind a reverse proxy, a path; no `/v1`, no slash at the
 * end. Throws a Fault that says what is wrong with it.
 */
export function parseAddress(text: string): URL {
  const written = text.trim();
  if (written === "") throw wrong("There is no address.");
  const schemed = /^[a-z][a-z0-9+.-]*:\/\//i.test(written) ? written : `http://${written}`;
  if (/\s/.test(schemed) || !URL.canParse(schemed)) throw wrong(`“${shorten(written)}” is not an address.`);
  const url = new URL(schemed);
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw wrong(`“${url.protocol}//” is not a way to reach the server: it speaks http or https.`);
  }
  if (url.username !== "" || url.password !== "") {
    throw wrong("The address must not hold a name or password: the key is kept apart, in the editor's secret store.");
  }
  url.search = "";
  url.hash = "";
  url.pathname = url.pathname.replace(/\/+$/, "").replace(/\/v1$/, "").replace(/\/+$/, "");
  return url;
}

/** `parseAddress` as text: what the key is kept under, and what people see. */
export function normalAddress(text: string): string {
  return parseAddress(text).href.replace(/\/$/, "");
}

/** Without the brackets that a URL has around an IPv6 address. */
export function hostOf(url: URL): string {
  return url.hostname.replace(/^\[|\]$/g, "");
}

/** The port, also where the scheme implies it. */
export function portOf(url: URL): number {
  return url.port !== "" ? Number(url.port) : url.protocol === "https:" ? 443 : 80;
}

const OWN = new BlockList();
OWN.addSubnet("127.0.0.0", 8, "ipv4");
OWN.addAddress("0.0.0.0", "ipv4");
OWN.addAddress("::1", "ipv6");
OWN.addAddress("::", "ipv6");

/** This machine's own addresses: never through a proxy. */
export function isLoopback(host: string): boolean {
  const name = host.toLowerCase().replace(/\.$/, "");
  if (name === "localhost" || name.endsWith(".localhost")) return true;
  const version = isIP(name);
  return version !== 0 && OWN.check(name, version === 6 ? "ipv6" : "ipv4");
}

/** Encrypted, or within this machine. */
export function isPrivate(address: string): boolean {
  const url = parseAddress(address);
  return url.protocol === "https:" || isLoopback(hostOf(url));
}

/** Where the extension runs, and so which machine `localhost` is. `remoteName` is the editor's; undefined: local. */
export function machineOf(remoteName: string | undefined): string {
  switch (remoteName) {
    case undefined:
    case "":
      return "this machine";
    case "ssh-remote":
      return "the remote machine (SSH), where this extension runs";
    case "tunnel":
      return "the remote machine (tunnel), where this extension runs";
    case "wsl":
      return "the Linux in WSL, where this extension runs";
    case "dev-container":
    case "attached-container":
    case "k8s-container":
      return "the container, where this extension runs";
    case "codespaces":
      return "the codespace, where this extension runs";
    default:
      return "the machine that the editor's server runs on, which is where this extension runs";
  }
}

/** How a server on the other machine, the one with the screen, is reached from here. Empty: there is no other. */
export function otherMachine(remoteName: string | undefined, port: number): string {
  switch (remoteName) {
    case undefined:
    case "":
      return "";
    case "ssh-remote":
      return (
        `If the server runs on the computer in front of you, forward its port to the remote machine ` +
        `(ssh -R ${port}:127.0.0.1:${port} HOST, or RemoteForward in the SSH configuration), or give an address ` +
        "that the remote machine can reach."
      );
    case "wsl":
      return (
        "If the server runs on Windows, give the Windows machine's own address (in WSL: ip route show default) and " +
        "start the server with AICOCKPIT_HOST=0.0.0.0, or switch on WSL's mirrored networking."
      );
    case "dev-container":
    case "attached-container":
    case "k8s-container":
      return (
        `If the server runs on the machine that runs the container, try http://host.docker.internal:${port} and ` +
        "start the server with AICOCKPIT_HOST=0.0.0.0."
      );
    default:
      return (
        "If the server runs on the computer in front of you, give an address of it that this machine can reach, " +
        "and start the server with AICOCKPIT_HOST=0.0.0.0."
      );
  }
}

function wrong(message: string): Fault {
  return new Fault("bad_request", message, EXAMPLE, undefined, "bad_address");
}

/** For people and logs: without a name or password that was written into it. */
export function shownAddress(text: string): string {
  return text.replace(/\/\/[^/]*@/, "//…@");
}

function shorten(text: string): string {
  const safe = shownAddress(text);
  return safe.length > 80 ? `${safe.slice(0, 79)}…` : safe;
}
