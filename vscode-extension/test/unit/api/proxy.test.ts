import { describe, expect, it } from "vitest";
import { Fault } from "../../../src/api/fault";
import { chooseProxy, matchesNoProxy, type ProxySources, shownProxy } from "../../../src/api/proxy";
import { NO_PROXIES } from "./servers";

function choose(target: string, sources: Partial<ProxySources>): [string | undefined, string] {
  const { proxy, why } = chooseProxy(new URL(target), { ...NO_PROXIES, ...sources });
  return [proxy?.href, why];
}

describe("the choice of a proxy", () => {
  const all = {
    setting: "http://one:1",
    editor: "http://two:2",
    env: { https_proxy: "http://three:3", HTTP_PROXY: "four:4" },
  };

  it("takes the setting, then the editor's, then the environment's", () => {
    expect(choose("https://gw", all)).toEqual(["http://one:1/", "from aicockpit.proxy"]);
    expect(choose("https://gw", { ...all, setting: "" })).toEqual(["http://two:2/", "from http.proxy"]);
    expect(choose("https://gw", { ...all, setting: "", editor: "" })).toEqual(["http://three:3/", "from https_proxy"]);
    expect(choose("http://gw", { ...all, setting: "", editor: "" })).toEqual(["http://four:4/", "from HTTP_PROXY"]);
    expect(choose("https://gw", {})).toEqual([undefined, "no proxy is set"]);
  });

  it.each([
    ["https://gw", { HTTPS_PROXY: "http://p:1" }, "HTTPS_PROXY"],
    ["https://gw", { ALL_PROXY: "http://p:1" }, "ALL_PROXY"],
    ["http://gw", { all_proxy: "http://p:1" }, "all_proxy"],
    ["http://gw", { http_proxy: "http://p:1", ALL_PROXY: "http://q:1" }, "http_proxy"],
  ])("%s with %j is told by %s", (target, env, name) => {
    expect(choose(target, { env })).toEqual(["http://p:1/", `from ${name}`]);
  });

  it("is none for the other scheme's variable", () => {
    expect(choose("http://gw", { env: { HTTPS_PROXY: "http://p:1" } })[0]).toBeUndefined();
  });

  it("is none for the setting “none”", () => {
    expect(choose("https://gw", { ...all, setting: " None " })).toEqual([undefined, "aicockpit.proxy is “none”"]);
  });

  it.each(["http://localhost:8000", "http://127.0.0.1:8000", "http://[::1]:8000", "https://127.1.2.3"])(
    "is none for %s, whatever is set",
    (target) => expect(choose(target, all)[0]).toBeUndefined(),
  );

  it("is none for what NO_PROXY or http.noProxy names, also before the setting", () => {
    expect(choose("https://gw.corp", { ...all, env: { NO_PROXY: "corp" } })[1]).toContain("NO_PROXY");
    expect(choose("https://gw.corp", { ...all, editorNoProxy: ["*.corp"] })[1]).toContain("http.noProxy");
  });

  it.each(["socks5://p:1", "http://", "ftp://p"])("refuses %s and says where it stands", (text) => {
    expect(() => choose("https://gw", { env: { ALL_PROXY: text } })).toThrow(Fault);
    expect(() => choose("https://gw", { env: { ALL_PROXY: text } })).toThrow(/ALL_PROXY/);
  });

  it("is shown without its password", () => {
    expect(shownProxy(new URL("http://me:secret@p:3128"))).toBe("http://p:3128");
  });
});

describe("NO_PROXY", () => {
  it.each([
    ["gw.example.org", 443, "example.org"],
    ["gw.example.org", 443, ".example.org"],
    ["gw.example.org", 443, "*.example.org"],
    ["example.org", 443, ".example.org"],
    ["GW.Example.org.", 443, "gw.example.ORG"],
    ["anything", 1, "*"],
    ["gw", 8000, "gw:8000"],
    ["10.1.2.3", 80, "10.0.0.0/8"],
    ["10.1.2.3", 80, "10.1.2.3"],
    ["10.1.2.3", 80, "10.1.2.3:80"],
    ["fd00::1", 80, "fd00::/8"],
    ["fd00::1", 8000, "[fd00::1]:8000"],
    ["gw", 80, " gw "],
  ])("%s:%i is in %j", (host, port, entry) => expect(matchesNoProxy(host, port, ["other", entry])).toBe(true));

  it.each([
    ["badexample.org", 443, "example.org"],
    ["gw", 8001, "gw:8000"],
    ["11.1.2.3", 80, "10.0.0.0/8"],
    ["10.1.2.3", 80, "10.0.0.0/99"],
    ["10.1.2.3", 80, "2.3"],
    ["gw", 80, ""],
    ["gw", 80, "."],
  ])("%s:%i is not in %j", (host, port, entry) => expect(matchesNoProxy(host, port, [entry])).toBe(false));
});
