/** Programs that only read, and the options with which they do more. */

import { judgeGit } from "./git";
import { writingTo } from "./paths";
import { type Arguments, changes, dangerous, type Judge, SAFE, type Verdict } from "./verdict";
import type { Dialect } from "./words";

/** Safe with any option. */
const READERS: ReadonlySet<string> = new Set(
  (
    "ls ll la dir vdir cat bat batcat head tail tac nl grep egrep fgrep zgrep zcat bzcat xzcat ag ack wc cut tr " +
    "diff cmp comm join paste fold fmt pr expand unexpand rev column stat du df ps pgrep pidof lsof free uptime " +
    "uname nproc lscpu lsblk lsusb lspci lsmod vmstat iostat mpstat id whoami who w groups users last logname tty " +
    "pwd cd pushd popd dirs echo printf true false test [ [[ ]] : sleep seq yes expr bc factor basename dirname " +
    "realpath readlink which whereis type hash md5sum sha1sum sha224sum sha256sum sha384sum sha512sum shasum md5 " +
    "b2sum cksum sum crc32 od hexdump hd strings nm size readelf objdump otool cal ncal locale getconf printenv " +
    "jobs wait times ulimit jq look tput numfmt tsort zdiff apropos whatis info tldr netstat getent pstree more " +
    "xargs time nohup nice fi done esac break continue return case for in"
  ).split(" "),
);
/** Names that mean this only there: `gm` and `fc` are other programs elsewhere. */
const READERS_THERE: Readonly<Record<Dialect, ReadonlySet<string>>> = {
  posix: new Set(),
  powershell: new Set(
    (
      "get-childitem gci get-content gc get-location gl select-string sls measure-object measure select-object " +
      "select where-object where sort-object format-table ft format-list fl get-process gps get-service get-date " +
      "get-help get-command gcm get-item gi get-itemproperty get-member gm test-path resolve-path write-output " +
      "write-host out-string get-filehash get-variable get-alias get-host compare-object group-object set-location " +
      "sl convertto-json convertfrom-json get-history h get-computerinfo get-psdrive get-acl"
    ).split(" "),
  ),
  cmd: new Set("findstr ver vol systeminfo tasklist cls clear fc rem".split(" ")),
};

/** Whether a program only reads, whatever its options. `program`: lower case. */
export function isReader(program: string, dialect: Dialect): boolean {
  return READERS.has(program) || READERS_THERE[dialect].has(program);
}

function without(options: readonly string[], why: string): Judge {
  return (given) => (given.has(...options) ? changes(why) : SAFE);
}

const AWK_RUNS = /\bsystem\s?\(|(?:^|[^|])\|(?:[^|]|$)|@\w/;

function judgeAwk(given: Arguments): Verdict {
  if (given.has("f", "file", "i", "include", "E", "exec", "l")) return changes("runs an awk program from a file");
  const script = given.texts.join("\n");
  if (AWK_RUNS.test(script)) return dangerous("runs other programs from inside awk");
  return />/.test(script.replace(/[<>=!]=|[\w)]\s?>\s?[\d.$]/g, ""))
    ? changes("may write files from inside awk")
    : SAFE;
}

const SED_ADDRESS = String.raw`^\s*(?:\d+|\$|/[^/]*/)?(?:,(?:\d+|\$|/[^/]*/))?[\s{!]*`;
const SED_RUNS = new RegExp(`${SED_ADDRESS}e(?:\\s|$)`);
const SED_WRITES = new RegExp(`${SED_ADDRESS}[wW]\\s+\\S`);
/** `s/a/b/` with the options e or w. */
const SED_SUBSTITUTES = /(?:^|[\d$/{\s])s([/|,#@:!%]).*\1[gpiImM\d]*([ew])/;

function judgeSed(given: Arguments): Verdict {
  if (given.has("i", "in-place", "I")) return changes("changes files in place");
  if (given.has("f", "file")) return changes("runs a sed script from a file");
  const parts = given.texts.flatMap((text) =>
    text
      .replace(/^--expression=|^-n?e(?=.)/, "")
      .slice(0, 2000)
      .split(/[;\n]/),
  );
  const option = (part: string) => SED_SUBSTITUTES.exec(part)?.[2];
  if (parts.some((part) => SED_RUNS.test(part) || option(part) === "e"))
    return dangerous("runs other programs from inside sed");
  return parts.some((part) => SED_WRITES.test(part) || option(part) === "w")
    ? changes("writes a file from inside sed")
    : SAFE;
}

function judgeFind(given: Arguments): Verdict {
  if (given.says("-delete")) return dangerous("deletes every file that it finds");
  if (given.says("-fprint", "-fprintf", "-fprint0", "-fls")) return changes("writes a file");
  return SAFE;
}

const DOCKER_READS = new Set(
  "ps images ls inspect logs stats top version info port diff history search events".split(" "),
);

const DOCKER_VALUES = new Set(
  "-H --host -c --context --config -l --log-level -f --file -p --project-name --profile".split(" "),
);

function judgeDocker(given: Arguments, program: string): Verdict {
  const top = given.subcommand(DOCKER_VALUES);
  const first = program === "docker-compose" ? "compose" : top.name;
  const second = program === "docker-compose" ? top.name : top.rest.subcommand(DOCKER_VALUES).name;
  const nested = [
    "container",
    "image",
    "volume",
    "network",
    "compose",
    "system",
    "builder",
    "context",
    "buildx",
  ].includes(first);
  const action = nested ? second : first;
  if (action === "prune" || (action === "purge" && first === "system"))
    return dangerous("deletes whatever is not in use");
  if (first === "volume" && (action === "rm" || action === "remove"))
    return dangerous("deletes volumes with their data");
  if (first === "compose" && action === "down" && given.has("v", "volumes"))
    return dangerous("deletes volumes with their data");
  if ((action === "rm" || action === "rmi" || action === "remove") && given.has("f", "force")) {
    return dangerous("deletes by force, also what is running");
  }
  if (
    action === "run" &&
    (given.has("privileged") || given.texts.some((text) => /^(?:--volume=|-v=?)?\/:/.test(text)))
  ) {
    return dangerous("gives a container the whole machine");
  }
  if (first === "compose" && action === "config") return given.has("o", "output") ? changes("writes a file") : SAFE;
  if (action === "" || DOCKER_READS.has(action) || given.has("help")) return SAFE;
  return changes(`changes containers or images (${action.slice(0, 30)})`);
}

const KUBECTL_VALUES = new Set(
  "-n --namespace --context --cluster --kubeconfig -s --server --user --as --token --request-timeout".split(" "),
);

function judgeKubectl(whole: Arguments): Verdict {
  const { name: action, rest: given } = whole.subcommand(KUBECTL_VALUES);
  if (action === "delete" || action === "drain") return dangerous("removes things from the cluster");
  if (action === "replace" && given.has("force")) return dangerous("removes things from the cluster");
  if (
    [
      "get",
      "describe",
      "logs",
      "top",
      "explain",
      "version",
      "api-resources",
      "api-versions",
      "cluster-info",
      "diff",
      "",
    ].includes(action)
  ) {
    return SAFE;
  }
  if (action === "config" && ["view", "get-contexts", "current-context"].includes(given.operand(0))) return SAFE;
  return changes("changes the cluster");
}

const PACKAGE_READS = new Set(
  "ls list ll outdated why explain view info show search audit help root prefix bin freeze check tree metadata verify-project locate-project version".split(
    " ",
  ),
);

const PACKAGE_VALUES = new Set(
  "--prefix -C --cwd --dir -w --workspace -F --filter --directory --project --python --manifest-path -p --registry".split(
    " ",
  ),
);

function judgePackages(whole: Arguments, program: string): Verdict {
  const { name: action, rest: given } = whole.subcommand(PACKAGE_VALUES);
  if (["publish", "unpublish", "yank", "upload", "push"].includes(action))
    return dangerous("publishes, which cannot be taken back");
  if (action === "audit" && (given.operand(0) === "fix" || given.has("fix")))
    return changes("installs or changes packages");
  const runs = (program === "cargo" && action === "check") || (action === "version" && given.operands.length > 0);
  const reads = PACKAGE_READS.has(action) || (action === "" && whole.has("version", "V", "v", "help", "h"));
  if (reads && !runs && !given.begins("-toolexec", "-vettool", "-exec")) return SAFE;
  if (program === "go" && ["env", "doc"].includes(action))
    return given.has("w", "u") ? changes("changes go's settings") : SAFE;
  return changes(
    /^(?:i|install|add|ci|update|upgrade|get|sync)$/.test(action)
      ? "installs packages"
      : "runs what the project defines, or changes packages",
  );
}

function judgeSystemctl(given: Arguments): Verdict {
  const action = given.operand(0);
  if (
    ["status", "list-units", "list-unit-files", "is-active", "is-enabled", "show", "cat", "list-timers", ""].includes(
      action,
    )
  )
    return SAFE;
  if (["poweroff", "reboot", "halt", "kexec", "suspend", "hibernate", "rescue", "emergency"].includes(action)) {
    return dangerous("stops the machine");
  }
  if (["stop", "disable", "mask", "kill", "isolate"].includes(action)) return dangerous("stops a service");
  return changes("changes a service");
}

const GPU_READS =
  /^(?:-[Lqlix]|-[id]=?[\w,]*|--(?:query|format|list|help|version|loop|id|xml)[\w-]*(?:=.*)?|[A-Z_,]+|\d+|pmon|dmon|topo|-[ms])$/;
const ADDRESS_CHANGES = ["exec", "up", "down", "add", "del", "delete", "flush", "set", "change", "replace"];

const listing =
  (letters: readonly string[], why: string): Judge =>
  (given) =>
    given.has(...letters) || /^t[a-z]*$/.test(given.operand(0)) ? SAFE : changes(why);

/** Programs that read unless told otherwise. */
export const GUARDED: Readonly<Record<string, Judge>> = {
  git: judgeGit,
  awk: judgeAwk,
  gawk: judgeAwk,
  mawk: judgeAwk,
  nawk: judgeAwk,
  sed: judgeSed,
  gsed: judgeSed,
  find: judgeFind,
  fd: judgeFind,
  fdfind: judgeFind,
  sort: (given) => {
    if (given.begins("--compress-program")) return changes("runs another program");
    const target = given.value("o", "output");
    if (target !== undefined) return writingTo(target);
    return given.has("o", "output") || given.says("/o") ? changes("writes a file") : SAFE;
  },
  uniq: (given) => {
    const target = given.operands[1];
    return target === undefined ? SAFE : writingTo(target);
  },
  rg: (given) =>
    given.texts.some((text) => /^--(?:pre(?:=|$)|hostname-bin)/.test(text)) ? changes("runs another program") : SAFE,
  tree: without(["o"], "writes a file"),
  less: (given) => (given.has("o", "O") || given.begins("+") ? changes("writes a file, or runs a command") : SAFE),
  man: (given) => (given.has("P", "pager", "H") ? changes("runs another program") : SAFE),
  date: (given) =>
    given.has("s", "set") || /^\d{8,}/.test(given.operand(0)) ? dangerous("sets the machine's clock") : SAFE,
  hostname: (given) => (given.operands.length > 0 ? changes("renames the machine") : SAFE),
  file: without(["C"], "writes a file"),
  yq: without(["i", "inplace", "s", "split-exp"], "changes files in place"),
  xxd: (given) => (given.has("r", "revert") || given.operands.length > 1 ? changes("writes a file") : SAFE),
  arch: (given) => (given.operands.length > 0 ? changes("runs another program") : SAFE),
  ss: (given) => (given.has("K", "kill") ? dangerous("ends connections") : SAFE),
  cloc: (given) => (given.begins("--out", "--report") ? changes("writes a file") : SAFE),
  tokei: () => SAFE,
  scc: without(["o", "output"], "writes a file"),
  "nvidia-smi": (given) =>
    given.texts.every((text) => GPU_READS.test(text)) ? SAFE : dangerous("changes the GPU's settings"),
  base64: (given) => (given.begins("-o", "--output") ? changes("writes a file") : SAFE),
  tar: (given) => {
    if (given.begins("--checkpoint-action", "--to-command", "--use-compress-program", "--rsh-command")) {
      return dangerous("runs other programs while it unpacks");
    }
    if (given.begins("--remove-files", "--recursive-unlink")) return dangerous("deletes files while it packs");
    const first = given.texts[0] ?? "";
    const lists = given.has("list") || (/^-?[a-zA-Z]+$/.test(first) && first.includes("t") && !/[xcruA]/.test(first));
    return lists ? SAFE : changes("packs or unpacks files, over what is there");
  },
  unzip: (given) => (given.has("l", "v", "t", "Z") ? SAFE : changes("unpacks files, over what is there if you agree")),
  zipinfo: () => SAFE,
  gunzip: listing(["l", "c"], "replaces files"),
  gzip: listing(["l", "c", "t"], "replaces files"),
  ifconfig: (given) => (given.operands.length > 1 ? dangerous("changes the network") : SAFE),
  ip: (given) => (given.says(...ADDRESS_CHANGES) ? dangerous("changes the network") : SAFE),
  top: () => SAFE,
  htop: () => SAFE,
  dmesg: (given) => (given.has("c", "C", "clear", "read-clear") ? dangerous("clears the kernel's log") : SAFE),
  journalctl: (given) =>
    given.begins("--vacuum", "--rotate", "--flush") ? dangerous("deletes the system's log") : SAFE,
  history: (given) => (given.has("c", "d", "w", "a") ? dangerous("changes the shell's history") : SAFE),
  env: () => SAFE,
  command: () => SAFE, // `-v`: what else it starts is judged by itself
  export: (given) => (given.operands.length === 0 ? SAFE : changes("changes this shell's variables")),
  set: (given) => (given.texts.length === 0 ? SAFE : changes("changes this shell")),
  alias: (given) =>
    given.texts.some((text) => text.includes("=")) ? changes("changes what a word means in this shell") : SAFE,
  docker: judgeDocker,
  podman: judgeDocker,
  "docker-compose": judgeDocker,
  nerdctl: judgeDocker,
  kubectl: judgeKubectl,
  oc: judgeKubectl,
  helm: (given) => {
    if (["uninstall", "delete", "del", "rollback"].includes(given.operand(0)))
      return dangerous("removes things from the cluster");
    return ["list", "ls", "status", "get", "show", "history", "version", "lint", "template"].includes(given.operand(0))
      ? SAFE
      : changes("changes the cluster");
  },
  npm: judgePackages,
  pnpm: judgePackages,
  yarn: judgePackages,
  bun: judgePackages,
  pip: judgePackages,
  pip3: judgePackages,
  uv: judgePackages,
  poetry: judgePackages,
  cargo: judgePackages,
  go: judgePackages,
  gem: judgePackages,
  dotnet: judgePackages,
  brew: judgePackages,
  conda: judgePackages,
  systemctl: judgeSystemctl,
  sw_vers: () => SAFE,
  sysctl: (given) =>
    given.has("w", "p") || given.texts.some((text) => text.includes("="))
      ? dangerous("changes the kernel's settings")
      : SAFE,
  mount: (given) => (given.operands.length === 0 ? SAFE : changes("mounts a disk")),
  crontab: (given) => {
    if (given.has("r")) return dangerous("deletes every planned job");
    return given.has("l") ? SAFE : dangerous("changes what runs by itself later");
  },
};
