/** Which proxy a request takes, and why: a pure choice between settings and environment. `http.ts` asks it. */

import { BlockList, isIP } from "node:net";
import { hostOf, isLoopback, portOf } from "./address";
import { Fault } from "./fault";

/** Everything that may name a proxy, as it was found. */
export interface ProxySources {
  /** `aicockpit.proxy`: a URL, `none`, or empty. */
  readonly setting: string;
  /** The editor's `http.proxy`; empty where its proxy support is off. */
  readonly editor: string;
  /** The editor's `http.noProxy`. */
  readonly editorNoProxy: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** `proxy` undefined: straight to the server. `why` names the setting or variable that said so. */
export interface ProxyChoice {
  readonly proxy: URL | undefined;
  readonly why: string;
}

/** Throws a Fault for a proxy that cannot be used: it is never silently left out. */
export function chooseProxy(target: URL, sources: ProxySources): ProxyChoice {
  const host = hostOf(target);
  if (isLoopback(host)) return direct("this machine's own addresses are reached directly");
  if (sources.setting.trim().toLowerCase() === "none") return direct("aicockpit.proxy is “none”");
  const exception = findException(host, portOf(target), sources);
  if (exception !== undefined) return direct(exception);
  for (const [where, text] of candidates(target, sources)) {
    if (text.trim() !== "") return { proxy: parseProxy(text.trim(), where), why: `from ${where}` };
  }
  return direct("no proxy is set");
}

/** Does `NO_PROXY` name it? Entries: `*`, names (and all below them), `host:port`, addresses, networks (`10.0.0.0/8`). */
export function matchesNoProxy(host: string, port: number, entries: readonly string[]): boolean {
  return entries.some((entry) => matches(host.toLowerCase().replace(/\.$/, ""), port, entry.trim().toLowerCase()));
}

/** A proxy's address for people: without its password. */
export function shownProxy(proxy: URL): string {
  return `${proxy.protocol}//${proxy.host}`;
}

function direct(why: string): ProxyChoice {
  return { proxy: undefined, why };
}

function findException(host: string, port: number, sources: ProxySources): string | undefined {
  const named = (sources.env.no_proxy ?? sources.env.NO_PROXY ?? "").split(/[\s,]+/);
  if (matchesNoProxy(host, port, named)) return "NO_PROXY names the server";
  if (matchesNoProxy(host, port, sources.editorNoProxy)) return "http.noProxy names the server";
  return undefined;
}

function candidates(target: URL, { setting, editor, env }: ProxySources): readonly (readonly [string, string])[] {
  const scheme = target.protocol === "https:" ? "https_proxy" : "http_proxy";
  const variables = [scheme, scheme.toUpperCase(), "all_proxy", "ALL_PROXY"];
  return [
    ["aicockpit.proxy", setting],
    ["http.proxy", editor],
    ...variables.map((name) => [name, env[name] ?? ""] as const),
  ];
}

function parseProxy(text: string, where: string): URL {
  const schemed = /^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : `http://${text}`;
  const fix = `Correct ${where}, set aicockpit.proxy to “none”, or name the server in NO_PROXY.`;
  if (!URL.canParse(schemed)) throw new Fault("proxy", `The proxy in ${where} is not an address.`, fix);
  const proxy = new URL(schemed);
  if (proxy.protocol !== "http:" && proxy.protocol !== "https:") {
    throw new Fault("proxy", `The proxy in ${where} speaks ${proxy.protocol}//, which cannot be used here.`, fix);
  }
  return proxy;
}

function matches(host: string, port: number, entry: string): boolean {
  if (entry === "") return false;
  if (entry === "*") return true;
  const ported = /^(\[[^\]]+\]|[^:]+):(\d+)$/.exec(entry);
  if (ported !== null && Number(ported[2]) !== port) return false;
  const name = (ported?.[1] ?? entry).replace(/^\[|\]$/g, "").replace(/^\*?\./, "");
  const version = isIP(host);
  if (version === 0) return name !== "" && (host === name || host.endsWith(`.${name}`));
  const [network = "", bits] = name.split("/");
  const networkVersion = isIP(network);
  if (networkVersion === 0) return false;
  const list = new BlockList();
  const family = networkVersion === 6 ? "ipv6" : "ipv4";
  const widest = networkVersion === 6 ? 128 : 32;
  if (bits !== undefined && !(/^\d{1,3}$/.test(bits) && Number(bits) <= widest)) return false;
  list.addSubnet(network, bits === undefined ? widest : Number(bits), family);
  return list.check(host, version === 6 ? "ipv6" : "ipv4");
}
