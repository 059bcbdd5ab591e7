// Which edge to connect to, and which other one when that is gone. What there is besides is asked
// for while all is well: a dead edge cannot be asked any more.

const REFRESH = 10000; // milliseconds
const ANSWER = 2000; // milliseconds that a balancer has to answer

export class Edges {
  // `base` is where the player came from, without a path.
  constructor(stream, base, ask = fetch) {
    this.stream = stream;
    this.base = base;
    this.home = base;
    this.ask = (...request) => ask(...request);
    this.node = '';
    this.balancer = '';
    this.others = [];
  }

  // Keep up with what there is.
  async follow() {
    await this.#look();
    setInterval(() => this.#look(), REFRESH);
  }

  // The player goes on at the edge with this URL.
  moved(url) {
    this.base = new URL(url.replace(/^ws/, 'http')).origin;
    this.#look();
  }

  // The edge is gone: return the base URL of another one, of the same if there is no other.
  async another() {
    const query = new URLSearchParams({ stream: this.stream });
    if (this.node) query.set('not', this.node);
    const told = this.balancer ? await this.#get(`${this.balancer}/api/v1/edge?${query}`) : null;
    if (told?.url) {
      this.base = told.url;
      this.others = told.alternatives ?? this.others;
    } else if (this.others.length) {
      this.base = this.others.splice(Math.floor(Math.random() * this.others.length), 1)[0];
    } else {
      this.base = this.home;
    }
    this.node = '';
    this.#look();
    return this.base;
  }

  async #look() {
    const { base } = this;
    const told = await this.#get(`${base}/api/v1/edge`);
    if (!told || base !== this.base) return;
    this.node = told.node ?? '';
    this.balancer = told.balancer || this.balancer;
    this.others = told.alternatives ?? [];
  }

  async #get(url) {
    try {
      const answer = await this.ask(url, { signal: AbortSignal.timeout(ANSWER) });
      return answer.ok ? await answer.json() : null;
    } catch {
      return null;
    }
  }
}
