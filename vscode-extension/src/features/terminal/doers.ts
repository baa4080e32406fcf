/** Programs that change things, and when that is dangerous. */

import { isEverything, short, writingTo } from "./paths";
import { type Arguments, changes, dangerous, type Judge, type Verdict, worst } from "./verdict";

const always =
  (verdict: Verdict): Judge =>
  () =>
    verdict;

function judgeRemove(given: Arguments): Verdict {
  const all = given.operands.find((word) => isEverything(word.text));
  const recursive = given.has("r", "R", "recursive");
  if (recursive && all !== undefined) return dangerous(`deletes everything in ${short(all.text)}`);
  if (recursive) return dangerous("deletes folders with all that is in them");
  const glob = given.operands.find((word) => word.glob);
  if (glob !== undefined) return dangerous(`deletes every file that ${short(glob.text)} stands for`);
  if (given.operands.some((word) => word.dynamic))
    return dangerous("deletes files whose names are only known when it runs");
  return changes("deletes files");
}

function judgeRemoveItem(given: Arguments): Verdict {
  if (given.begins("-rec") || given.says("-r", "-rf", "-fr"))
    return dangerous("deletes folders with all that is in them");
  if (given.begins("-fo")) return dangerous("deletes by force");
  return judgeRemove(given);
}

function judgeDel(given: Arguments): Verdict {
  if (given.says("/s", "/q", "/f") || given.begins("-rec", "-fo"))
    return dangerous("deletes folders or files without asking");
  return judgeRemove(given);
}

function judgeMode(given: Arguments): Verdict {
  if (given.has("R", "recursive")) return dangerous("changes owner or rights of whole folders");
  const mode = given.operand(0);
  if (/^0?[0-7]?[0-7][0-7][2367]$/.test(mode) || /^(?:a|o|ugo|\+)?\+?[rx]*w|[augo]*[+=][rwx]*s/.test(mode)) {
    return /^u?\+w$|^u\+?[rwx]+$/.test(mode)
      ? changes("changes rights of files")
      : dangerous("lets others write, or run it as its owner");
  }
  return changes("changes owner or rights of files");
}

/** Everything that its operands name is written; `last`: only the last one is. */
function judgeTargets(what: string, last: boolean): Judge {
  return (given) => {
    const targets = last ? given.operands.slice(-1) : given.operands;
    const bad = worst(targets.map((word) => writingTo(word)));
    return bad.level === "dangerous" ? bad : changes(what);
  };
}

function judgeDd(given: Arguments): Verdict {
  const target = given.words.find((word) => word.text.startsWith("of="));
  if (target === undefined) return changes("copies raw data");
  const verdict = writingTo({ ...target, text: target.text.slice(3) });
  return verdict.level === "dangerous" ? verdict : dangerous(`overwrites ${short(target.text.slice(3))} with raw data`);
}

function judgeKill(given: Arguments): Verdict {
  if (given.has("l", "L", "list")) return changes("lists signals");
  if (
    given.texts.some((text) => /^-(?:9|KILL|SIGKILL)$/i.test(text)) ||
    given.value("s", "signal")?.text.match(/^(?:9|(?:SIG)?KILL)$/i)
  ) {
    return dangerous("ends programs by force, unsaved work is lost");
  }
  if (given.operands.some((word) => /^-1$|^1$/.test(word.text)) || given.texts.includes("-1"))
    return dangerous("ends every program it may");
  return changes("ends programs");
}

function judgeMove(given: Arguments): Verdict {
  if (given.operands.at(-1)?.text === "/dev/null") return dangerous("moves files to nowhere");
  const all = given.operands.slice(0, -1).find((word) => isEverything(word.text));
  if (all !== undefined && /^[/~$]/.test(all.text)) return dangerous(`moves everything in ${short(all.text)}`);
  return judgeTargets("moves files, over what is there", true)(given, "mv");
}

function judgeCurl(given: Arguments): Verdict {
  const target = given.value("o", "output") ?? given.value("O", "output-document");
  if (target !== undefined) {
    const verdict = writingTo(target);
    if (verdict.level === "dangerous") return verdict;
  }
  const method = given.value("X", "request")?.text.toUpperCase();
  if (method === "DELETE") return dangerous("deletes something on a server");
  const sends =
    given.has(
      "data",
      "data-binary",
      "data-raw",
      "data-urlencode",
      "json",
      "form",
      "upload-file",
      "post-file",
      "post-data",
    ) || given.texts.some((text) => /^-[sSLkifv]*[dFT]/.test(text));
  return changes(sends ? "sends data over the network" : "fetches over the network");
}

const CLOUD_DELETES =
  /^(?:rm|rb|delete|destroy|remove|purge|terminate|del|uninstall)$|^(?:delete|terminate|remove|purge)-/;

function judgeCloud(given: Arguments): Verdict {
  const action = given.operands.slice(0, 5).find((word) => CLOUD_DELETES.test(word.text.toLowerCase()));
  if (action !== undefined) return dangerous(`deletes things in the cloud (${short(action.text)})`);
  if (given.has("delete")) return dangerous("deletes at the other end what is not here");
  return changes("talks to a cloud service");
}

function judgeTerraform(given: Arguments): Verdict {
  const action = given.operand(0);
  if (action === "destroy" || given.has("destroy") || given.begins("-destroy"))
    return dangerous("destroys what it manages");
  if (action === "apply" && given.begins("-auto-approve", "--auto-approve"))
    return dangerous("changes what it manages without asking");
  if (action === "state" && /^(?:rm|push|mv)$/.test(given.operand(1))) return dangerous("changes what terraform knows");
  return changes("may change what terraform manages");
}

const NETWORK = changes("sends or fetches over the network");
const DISK = dangerous("writes to a disk itself, below its files");
const ROOT = dangerous("runs as the administrator");
const MACHINE = dangerous("stops or restarts the machine");
const ACCOUNTS = dangerous("changes user accounts");
const INSTALLS = changes("installs or removes programs");
const FIREWALL = dangerous("changes the firewall");
const EVALUATES = dangerous("runs text as a program");
const TALKS = dangerous("can hand a shell of this machine to another machine");

const SAME: readonly (readonly [names: string, judge: Judge])[] = [
  ["rm grm", judgeRemove],
  ["remove-item ri", judgeRemoveItem],
  ["del erase", judgeDel],
  [
    "rd",
    (given) =>
      given.says("/s", "/q") || given.begins("-rec", "-fo")
        ? dangerous("deletes folders with all that is in them")
        : changes("deletes folders"),
  ],
  [
    "rmdir",
    (given) =>
      given.says("/s", "/q") || given.begins("-rec")
        ? dangerous("deletes folders with all that is in them")
        : changes("deletes empty folders"),
  ],
  ["unlink", always(changes("deletes files"))],
  ["shred wipe srm scrub", always(dangerous("destroys files so that they cannot be brought back"))],
  ["trash trash-put gio", always(changes("moves files to the bin"))],
  ["chmod chown chgrp setfacl chattr icacls cacls takeown", judgeMode],
  [
    "tee",
    (given) =>
      worst([changes("writes files"), ...given.operands.map((word) => writingTo(word, given.has("a", "append")))]),
  ],
  [
    "cp copy copy-item cpi xcopy robocopy install ln mklink link",
    judgeTargets("writes files, over what is there", true),
  ],
  ["mv move move-item mi rename ren", judgeMove],
  ["touch mkdir md new-item ni split csplit mkfifo mktemp", judgeTargets("makes files or folders", false)],
  ["truncate clear-content clc", always(dangerous("empties files"))],
  ["set-content sc out-file add-content ac", judgeTargets("writes files", false)],
  ["dd", judgeDd],
  [
    "fdisk sfdisk cfdisk gdisk sgdisk parted wipefs blkdiscard cryptsetup mkswap diskpart format format-volume clear-disk initialize-disk remove-partition lvremove vgremove pvremove hdparm nvme badblocks",
    always(DISK),
  ],
  ["diskutil", (given) => (/^(?:list|info)$/.test(given.operand(0)) ? changes("asks about disks") : DISK)],
  ["umount swapon swapoff losetup", always(changes("changes which disks are in use"))],
  ["sudo doas su pkexec runas gsudo", always(ROOT)],
  [
    "kill stop-process spps",
    (given) => (given.begins("-force") ? dangerous("ends programs by force, unsaved work is lost") : judgeKill(given)),
  ],
  ["killall pkill xkill skill", always(dangerous("ends every program of that name"))],
  [
    "taskkill",
    (given) =>
      given.says("/f", "-f") ? dangerous("ends programs by force, unsaved work is lost") : changes("ends programs"),
  ],
  ["shutdown reboot halt poweroff init telinit stop-computer restart-computer logoff", always(MACHINE)],
  [
    "useradd userdel usermod adduser deluser groupadd groupdel passwd chpasswd chsh visudo vipw dscl net",
    always(ACCOUNTS),
  ],
  ["iptables ip6tables nft ufw firewall-cmd pfctl netsh route", always(FIREWALL)],
  [
    "reg",
    (given) => (given.operand(0) === "query" ? changes("reads the registry") : dangerous("changes the registry")),
  ],
  [
    "bcdedit bootrec vssadmin wbadmin cipher sfc wmic remove-itemproperty set-itemproperty regedit schtasks set-executionpolicy add-mppreference set-mppreference uninstall-module",
    always(dangerous("changes the system itself")),
  ],
  [
    "modprobe insmod rmmod depmod grub-install update-grub efibootmgr nvram csrutil spctl launchctl defaults chroot",
    always(dangerous("changes the system itself")),
  ],
  ["setenforce auditctl", always(dangerous("changes the machine's protection"))],
  ["eval invoke-expression iex", always(EVALUATES)],
  [
    "nc ncat netcat socat telnet",
    (given) =>
      given.has("e", "c", "exec", "sh-exec") || given.texts.some((text) => /^(?:exec|system):/i.test(text))
        ? TALKS
        : NETWORK,
  ],
  ["curl wget curl.exe http https xh aria2c invoke-webrequest iwr invoke-restmethod irm start-bitstransfer", judgeCurl],
  [
    "scp sftp ftp lftp rclone ssh mosh ping dig nslookup host traceroute whois nmap mail sendmail mutt gh glab hub ssh-copy-id",
    always(NETWORK),
  ],
  [
    "rsync",
    (given) =>
      given.begins("--delete", "--remove-source-files")
        ? dangerous("deletes files at one end")
        : changes("copies files, over what is there"),
  ],
  [
    "certutil bitsadmin",
    (given) =>
      given.begins("-urlcache", "/urlcache", "/transfer")
        ? dangerous("fetches a program in a roundabout way")
        : NETWORK,
  ],
  [
    "apt apt-get aptitude yum dnf zypper pacman apk snap flatpak choco scoop winget port nix-env emerge dpkg rpm",
    (given) =>
      given.says("purge", "autoremove", "remove", "uninstall", "erase", "-rns", "-rs", "-r")
        ? dangerous("removes programs")
        : INSTALLS,
  ],
  ["aws gcloud az gsutil s3cmd doctl heroku flyctl vercel netlify mc eksctl", judgeCloud],
  ["terraform tofu pulumi terragrunt cdk", judgeTerraform],
  ["twine", always(dangerous("publishes, which cannot be taken back"))],
  [
    "redis-cli",
    (given) =>
      given.says("flushall", "flushdb", "shutdown") ? dangerous("deletes a database") : changes("talks to a database"),
  ],
  [
    "dropdb dropuser mysqladmin",
    (given, program) =>
      program !== "mysqladmin" || given.says("drop", "shutdown")
        ? dangerous("deletes a database")
        : changes("talks to a database"),
  ],
  ["at batch", always(changes("runs a command later"))],
  [
    "source .",
    (given) => (given.words.some((word) => word.dynamic) ? EVALUATES : changes("runs a script in this shell")),
  ],
];

/** By program name, lower case. */
export const DOERS: ReadonlyMap<string, Judge> = new Map(
  SAME.flatMap(([names, judge]) => names.split(" ").map((name): [string, Judge] => [name, judge])),
);

/** `mkfs.ext4` and all its brothers. */
export function judgeByPrefix(program: string): Verdict | undefined {
  return /^(?:mkfs|newfs|mke2fs|mkntfs|mkdosfs)/.test(program) ? DISK : undefined;
}
