// What the browser tests stand on: the program, real sshd's, a browser that keeps every complaint of a page.
// Everything runs on free loopback ports below a temporary directory and ends with the test, by process id.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const PROGRAM = process.env.ROUNDSMAN_PROGRAM ?? path.join(HERE, "../../target/debug/roundsman");
const SHOTS = path.join(HERE, "shots");
// Only a failing test waits so long; what a page promises is asserted with its own limit.
const PATIENCE_MS = 60_000;

export const PASSWORD = "a password for the browser tests";

const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };

/** Both themes on a desk and on a phone, as options of a profile. */
export const LOOKS = {
  light: { colorScheme: "light" },
  dark: { colorScheme: "dark" },
  phone: { colorScheme: "light", ...PHONE },
  "phone-dark": { colorScheme: "dark", ...PHONE },
};

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits until `look` answers something, for things that nobody announces. */
export async function eventually(what, look, limitMs = PATIENCE_MS) {
  const end = Date.now() + limitMs;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) assert.fail(`waited ${limitMs} ms in vain for: ${what}`);
    await pause(50);
  }
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = net.createServer();
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

function temporary(prefix) {
  return fs.mkdtempSync(path.join(os.tmpdir(), prefix));
}

function ended(child) {
  return child.exitCode !== null || child.signalCode !== null ? Promise.resolve() : new Promise((resolve) => child.once("exit", resolve));
}

/** The program with a data directory of its own. */
export class Roundsman {
  constructor() {
    this.dir = temporary("roundsman-browser-");
    this.data = path.join(this.dir, "data");
    fs.mkdirSync(path.join(this.dir, "home"));
  }

  environment() {
    return { PATH: process.env.PATH, HOME: path.join(this.dir, "home"), ROUNDSMAN_RUNTIME_DIR: path.join(this.dir, "run") };
  }

  async start(...more) {
    this.port ??= await freePort();
    this.url = `http://127.0.0.1:${this.port}`;
    const log = fs.openSync(path.join(this.dir, "log"), "a");
    this.child = spawn(PROGRAM, ["serve", "--data", this.data, "--listen", `127.0.0.1:${this.port}`, "--interval", "1s", ...more], {
      env: this.environment(),
      stdio: ["ignore", "pipe", log],
    });
    fs.closeSync(log);
    let said = "";
    this.child.stdout.on("data", (text) => {
      said += text;
    });
    await eventually("the greeting of the program", () => {
      assert.equal(this.child.exitCode, null, this.log());
      return said.includes(this.url) && said.endsWith("\n\n");
    });
    this.greeting = said;
    this.setup = said.match(/http:\S+\/setup\/\S+/)?.[0];
    return this;
  }

  log() {
    return fs.readFileSync(path.join(this.dir, "log"), "utf8");
  }

  /** A command of the program against this server; answers its output. */
  run(...words) {
    return execFileSync(PROGRAM, ["--data", this.data, ...words], { env: this.environment(), encoding: "utf8" });
  }

  async stop(signal = "SIGTERM") {
    if (!this.child) return;
    this.child.kill(signal);
    await ended(this.child);
    this.child = null;
  }

  async remove() {
    await this.stop("SIGKILL");
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}

/** Everything that a process started, and what that started. */
function descendants(pid) {
  const children = new Map();
  for (const name of fs.readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = fs.readFileSync(`/proc/${name}/stat`, "utf8");
      const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
      children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
    } catch {
      // It ended while we looked.
    }
  }
  const found = [];
  for (const open = [pid]; open.length; ) {
    const below = children.get(open.pop()) ?? [];
    found.push(...below);
    open.push(...below);
  }
  return found;
}

function signal(name, pids) {
  for (const pid of pids) {
    try {
      process.kill(pid, name);
    } catch (error) {
      if (error.code !== "ESRCH") throw error;
    }
  }
}

/** A private sshd: own port, host key and authorized keys. */
export class Sshd {
  constructor() {
    this.dir = temporary("roundsman-sshd-");
    this.user = os.userInfo().username;
    execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", this.path("host_key")]);
    fs.mkdirSync(this.path("home"), { mode: 0o700 });
    fs.writeFileSync(this.path("authorized_keys"), "", { mode: 0o600 });
  }

  path(name) {
    return path.join(this.dir, name);
  }

  authorize(line) {
    fs.appendFileSync(this.path("authorized_keys"), `${line}\n`);
  }

  get address() {
    return `${this.user}@127.0.0.1:${this.port}`;
  }

  get fingerprint() {
    return execFileSync("ssh-keygen", ["-lf", this.path("host_key.pub")], { encoding: "utf8" }).split(" ")[1];
  }

  async start() {
    if (process.getuid() === 0) fs.mkdirSync("/run/sshd", { recursive: true });
    this.port ??= await freePort();
    fs.writeFileSync(
      this.path("config"),
      [
        `Port ${this.port}`,
        "ListenAddress 127.0.0.1",
        `HostKey ${this.path("host_key")}`,
        `AuthorizedKeysFile ${this.path("authorized_keys")}`,
        "PidFile none",
        "UsePAM no",
        // Not the developer's own home: what stands in its start-up files would run before every command.
        `SetEnv HOME=${this.path("home")}`,
        "StrictModes no",
        "PermitRootLogin yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "UseDNS no",
        "PrintMotd no",
        "LogLevel VERBOSE",
        "",
      ].join("\n"),
    );
    const log = fs.openSync(this.path("log"), "a");
    this.child = spawn("/usr/sbin/sshd", ["-D", "-e", "-f", this.path("config")], { stdio: ["ignore", "ignore", log] });
    fs.closeSync(log);
    const before = this.listened ?? 0;
    await eventually("sshd listens", () => {
      assert.equal(this.child.exitCode, null, this.log());
      return this.log().split("Server listening on").length - 1 > before;
    });
    this.listened = before + 1;
    return this;
  }

  log() {
    return fs.readFileSync(this.path("log"), "utf8");
  }

  logins() {
    return this.log().split("\n").filter((line) => line.startsWith("Accepted ") && !line.startsWith("Accepted key ")).length;
  }

  /** Ends the daemon and every session. */
  async stop() {
    if (!this.child) return;
    // Stopped first, so that it cannot start another session meanwhile.
    signal("SIGSTOP", [this.child.pid]);
    signal("SIGKILL", descendants(this.child.pid));
    signal("SIGKILL", [this.child.pid]);
    await ended(this.child);
    this.child = null;
  }

  /** Nothing answers, nothing is closed. */
  freeze() {
    signal("SIGSTOP", [this.child.pid, ...descendants(this.child.pid)]);
  }

  thaw() {
    signal("SIGCONT", [...descendants(this.child.pid), this.child.pid]);
  }

  async remove() {
    await this.stop();
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}

/** A browser whose pages may complain of nothing. */
export class Browser {
  static async launch() {
    const browser = new Browser();
    browser.chromium = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
    });
    browser.complaints = [];
    browser.expected = [];
    return browser;
  }

  /** A fresh profile; `options` as Playwright's newContext takes them. */
  async profile(options = {}) {
    const context = await this.chromium.newContext({ viewport: { width: 1280, height: 900 }, ...options });
    context.setDefaultTimeout(PATIENCE_MS);
    context.on("console", (message) => {
      if (message.type() !== "error" && message.type() !== "warning") return;
      this.complain(`${message.text()} (${message.location().url})`);
    });
    context.on("weberror", (error) => this.complain(String(error.error())));
    return context;
  }

  complain(text) {
    if (!this.expected.some((pattern) => pattern.test(text))) this.complaints.push(text);
  }

  /** What this test provokes on purpose. */
  expect(pattern) {
    this.expected.push(pattern);
  }

  assertQuiet() {
    assert.deepEqual(this.complaints, [], "a page complained on the console");
  }

  async close() {
    await this.chromium.close();
  }
}

/** Opens the one-time address and chooses the password. */
export async function setUp(page, roundsman) {
  await page.goto(roundsman.setup);
  await page.fill("input[name=username]", "admin");
  await page.fill("input[name=password]", PASSWORD);
  await page.fill("input[name=password_again]", PASSWORD);
  await page.click("button.primary");
  await page.waitForURL(`${roundsman.url}/`);
}

export async function logIn(page, roundsman, password = PASSWORD) {
  await page.goto(`${roundsman.url}/login`);
  await page.fill("input[name=username]", "admin");
  await page.fill("input[name=password]", password);
  await page.click("button.primary");
}

/** Roundsman's own public key line. */
export function publicKey(roundsman) {
  return roundsman.greeting.match(/^\s*(ssh-ed25519 \S+.*)$/m)[1];
}

/** Enrols a server by command, where the test is about something else. It is read at the program's own interval. */
export function enrol(roundsman, sshd, name, ...more) {
  sshd.authorize(publicKey(roundsman));
  roundsman.run("add", sshd.address, "--name", name, "--accept-new", ...more);
}

export async function shot(page, name) {
  fs.mkdirSync(SHOTS, { recursive: true });
  await page.screenshot({ path: path.join(SHOTS, `${name}.png`), fullPage: true });
}

/** Pixels that the page is wider than its window. */
export function sideways(page) {
  return page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
}

/**
 * Texts that stand out too little from what is behind them, by the colours that the browser computed: WCAG 2.2, 1.4.3,
 * so 4.5 to 1, and 3 to 1 for large text. What is disabled or still being fetched may be faint.
 */
export function faint(page) {
  return page.evaluate(() => {
    const canvas = document.createElement("canvas");
    canvas.width = 1;
    canvas.height = 1;
    const brush = canvas.getContext("2d", { willReadFrequently: true });
    const known = new Map();
    const channels = (colour) => {
      if (!known.has(colour)) {
        brush.clearRect(0, 0, 1, 1);
        brush.fillStyle = colour;
        brush.fillRect(0, 0, 1, 1);
        const [red, green, blue, alpha] = brush.getImageData(0, 0, 1, 1).data;
        known.set(colour, { rgb: [red, green, blue], alpha: alpha / 255 });
      }
      return known.get(colour);
    };
    const over = (front, alpha, back) => front.map((value, index) => value * alpha + back[index] * (1 - alpha));
    const luminance = (rgb) => {
      const [red, green, blue] = rgb.map((value) => (value <= 10.31 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
      return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const ground = channels(getComputedStyle(document.documentElement).backgroundColor).rgb;
    const found = new Map();
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const element = texts.currentNode.parentElement;
      const words = texts.currentNode.data.trim();
      if (!words || element.closest("svg, script, .sr, :disabled, .is-loading") || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
      const { width, height } = element.getBoundingClientRect();
      if (width < 2 || height < 2) continue;
      const layers = [];
      let opacity = 1;
      for (let at = element; at; at = at.parentElement) {
        const style = getComputedStyle(at);
        opacity *= Number(style.opacity);
        layers.push(channels(style.backgroundColor));
        if (layers.at(-1).alpha === 1) break;
      }
      const back = layers.reduceRight((below, layer) => over(layer.rgb, layer.alpha, below), ground);
      const style = getComputedStyle(element);
      const text = channels(style.color);
      const [light, dark] = [luminance(over(text.rgb, text.alpha * opacity, back)), luminance(back)].sort((one, other) => other - one);
      const ratio = (light + 0.05) / (dark + 0.05);
      const size = Number.parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      if (ratio < (large ? 3 : 4.5)) found.set(`${element.localName}.${element.className} ${ratio.toFixed(2)}`, words.slice(0, 40));
    }
    return [...found].map(([where, words]) => `${where}: ${words}`);
  });
}

/** A page as a customer may see it: nothing beyond the window's edge, every section in sight, no faint text. Keeps a picture. */
export async function presentable(page, name) {
  const beyond = await sideways(page);
  assert.ok(beyond <= 0, `${name} scrolls sideways by ${beyond} px`);
  const cut = await page.evaluate(() => {
    const edge = document.documentElement.clientWidth;
    return [...document.querySelectorAll(".sections a")].filter((link) => link.getBoundingClientRect().right > edge).map((link) => link.textContent);
  });
  assert.deepEqual(cut, [], `${name}: sections of the navigation are out of sight`);
  assert.deepEqual(await faint(page), [], `${name}: text that is hard to read`);
  await shot(page, name);
}

/** The first number of a text such as "12.5%" or "1.2 KiB/s"; null where there is none. */
export function figure(text) {
  const found = (text ?? "").match(/\d+(\.\d+)?/);
  return found ? Number(found[0]) : null;
}

/** Milliseconds until a locator's text fits, seen from inside the page without a reload. */
export async function becomes(page, selector, pattern, limitMs) {
  const start = Date.now();
  await page.waitForFunction(
    ([selector, source]) => new RegExp(source, "i").test(document.querySelector(selector)?.textContent ?? ""),
    [selector, pattern.source],
    { timeout: limitMs, polling: 50 },
  );
  return Date.now() - start;
}
