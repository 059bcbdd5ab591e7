// lg: the load generator of the benchmarks, for servers on 127.0.0.1.
//
//   lg MODE -P PORT -c CONNECTIONS -d SECONDS -w WARMUP [-pid PID,...] [-tls] PATH...
//
//   get      each connection asks for one path after the other, the next when the last has come
//   park     LL-HLS viewers of the playlist PATH: a blocking reload after the other; -parts: each
//            also gets every part. Latency: from the mark at the end of a part to its playlist
//   stream   long-lived viewers of PATH, -ws over WebSocket, -rtmp of /APP/STREAM; -probes of them
//            look for the marks
//
// Bodies are thrown away inside the kernel (MSG_TRUNC), so that one core can load another one. What
// the servers' processes used of the CPU (schedstat) and of memory is taken at the edges of the
// measured time and printed with everything else as one line of JSON.
#include "common.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "rtmp.h"

enum { MAX_PATHS = 512, MAX_PIDS = 64, HEAD = 2048, BODY = 65536, JUNK = 1 << 20 };
enum mode { GET, PARK, STREAM };

typedef struct {
  int fd, path, in_body, probe, closed;
  SSL *ssl;
  int64_t left;          // bytes of the body that are still to come
  uint64_t asked, bytes, bytes_before;
  char *keep;            // a playlist, or what a probe reads; else nothing is kept
  int kept, keeping;
  int blocking;          // park: the request under way is a blocking reload
  int64_t part;          // park: the part under way, -1 for the playlist
  char head[HEAD];
  int have;
  char headers[400];
} conn;

static enum mode mode;
static int port, connections = 50, probes = 16, sweep_ms = 50, use_ws, use_rtmp, use_tls, all_parts;
static double seconds = 3, warmup = 1;
static const char *paths[MAX_PATHS];
static int path_count, pids[MAX_PIDS], pid_count;
static conn *all;
static int poller, measuring;
static uint64_t requests, received, errors, bad_status;
static SSL_CTX *tls;
static char junk[JUNK];

// ---- what servers use

static uint64_t cpu_of(int pid) {
  char path[300];
  snprintf(path, sizeof path, "/proc/%d/task", pid);
  DIR *folder = opendir(path);
  if (!folder) return 0;
  uint64_t sum = 0;
  for (struct dirent *entry; (entry = readdir(folder));) {
    if (entry->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pid, entry->d_name);
    FILE *file = fopen(path, "r");
    unsigned long long value = 0;
    if (file && fscanf(file, "%llu", &value) == 1) sum += value;
    if (file) fclose(file);
  }
  closedir(folder);
  return sum;
}

// Memory of its own: pages in shared memory are of the stream, not of a viewer.
static long anonymous_kb(int pid) {
  char path[64], line[256];
  snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  long found = 0, value;
  while (fgets(line, sizeof line, file))
    if (sscanf(line, "Pss_Anon: %ld", &value) == 1) found = value;
  fclose(file);
  return found;
}

static long all_anonymous_kb(void) {
  long sum = 0;
  for (int i = 0; i < pid_count; i++) sum += anonymous_kb(pids[i]);
  return sum;
}

// ---- latencies, in nanoseconds

static uint64_t *latencies;
static size_t latency_count, latency_room;

static void latency(uint64_t ns) {
  if (latency_count == latency_room) {
    latency_room = latency_room ? latency_room * 2 : 1 << 16;
    latencies = need(realloc(latencies, latency_room * sizeof *latencies));
  }
  latencies[latency_count++] = ns;
}

static int by_size(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

static double quantile_ms(double share) {
  return latencies[(size_t)((latency_count - 1) * share)] / 1e6;
}

// ---- connections

static ssize_t take(conn *c, void *to, size_t size, int flags) {
  if (!c->ssl) return recv(c->fd, to, size, flags);
  int count = SSL_read(c->ssl, to, size);
  if (count > 0) return count;
  int error = SSL_get_error(c->ssl, count);
  errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : ECONNRESET;
  ERR_clear_error();
  return error == SSL_ERROR_ZERO_RETURN ? 0 : -1;
}

static void dial(conn *c) {
  struct sockaddr_in address = loopback(port);
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  for (int tries = 0; connect(c->fd, (void *)&address, sizeof address); tries++) {
    if (tries == 50) fail("connect");
    usleep(20000);
  }
  no_delay(c->fd);
  if (use_tls) {
    c->ssl = SSL_new(tls);
    SSL_set_fd(c->ssl, c->fd);
    if (SSL_connect(c->ssl) != 1) {
      ERR_print_errors_fp(stderr);
      exit(2);
    }
  }
  nonblocking(c->fd);
}

static void watch(conn *c) {
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
  epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void ask(conn *c, const char *path) {
  char request[1500];
  int size = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\n%s", path, c->headers);
  c->have = c->in_body = c->kept = 0;
  c->asked = now_ns();
  int sent = c->ssl ? SSL_write(c->ssl, request, size) : send(c->fd, request, size, MSG_NOSIGNAL);
  if (sent != size) errors++;
}

static void lost(conn *c) {
  errors++;
  close(c->fd);
  if (c->ssl) SSL_free(c->ssl);
  c->ssl = NULL;
  dial(c);
  watch(c);
}

// Returns 1 when a whole response has come, -1 when the connection has gone, else 0.
static int progress(conn *c) {
  for (;;) {
    if (!c->in_body) {
      ssize_t got = take(c, c->head + c->have, HEAD - 1 - c->have, 0);
      if (got <= 0) return got < 0 && errno == EAGAIN ? 0 : -1;
      c->have += got;
      c->bytes += got;
      received += got;
      c->head[c->have] = 0;
      char *end = strstr(c->head, "\r\n\r\n");
      if (!end && c->have < HEAD - 1) return 0;
      char *length = end ? strcasestr(c->head, "\r\ncontent-length:") : NULL;
      if (!length || length > end) return -1;
      if (strncmp(c->head + 9, "200", 3) && !bad_status++)
        fprintf(stderr, "%.300s\n", c->head);
      int body = c->have - (end + 4 - c->head);
      c->left = strtoll(length + 17, NULL, 10) - body;
      c->in_body = 1;
      if (c->keeping) {
        memcpy(c->keep, end + 4, body);
        c->kept = body;
      }
    }
    while (c->left > 0) {
      ssize_t got;
      if (c->keeping) {
        int room = c->left < BODY - c->kept ? (int)c->left : BODY - c->kept;
        if (room <= 0) {  // only the end of a long part is of interest
          memmove(c->keep, c->keep + BODY / 2, BODY / 2);
          c->kept = BODY / 2;
          continue;
        }
        got = take(c, c->keep + c->kept, room, 0);
        if (got > 0) c->kept += got;
      } else {
        got = take(c, junk, c->left < JUNK ? c->left : JUNK, MSG_TRUNC);
      }
      if (got <= 0) return got < 0 && errno == EAGAIN ? 0 : -1;
      c->left -= got;
      c->bytes += got;
      received += got;
    }
    return 1;
  }
}

// ---- park: what a playlist says

typedef struct {
  char text[BODY];
  int size;
  int64_t part;
  char part_path[512], next_path[512];
} playlist;
static playlist newest;

typedef struct {
  int64_t part;
  uint64_t at;
} wake;
static wake *wakes;
static size_t wake_count, wake_room;
enum { MARKS = 1 << 16 };
static uint64_t marks[MARKS];

// All viewers get the same text: it is read once.
static void understand(const char *text, int size) {
  if (size == newest.size && !memcmp(text, newest.text, size)) return;
  memcpy(newest.text, text, size);
  newest.text[size < BODY ? size : BODY - 1] = 0;
  newest.size = size;
  char *found = strstr(newest.text, "#EXT-X-MEDIA-SEQUENCE:");
  long sequence = found ? atol(found + 22) : 0, parts = 0;
  char *tail = newest.text;
  for (char *at = newest.text; (at = strstr(at, "#EXTINF:")); tail = ++at) sequence++;
  for (char *at = tail; (at = strstr(at, "#EXT-X-PART:")); at++) parts++;
  char *last = NULL;
  for (char *at = newest.text; (at = strstr(at, "#EXT-X-PART:")); at++) last = at;
  const char *base = paths[0], *slash = strrchr(base, '/');
  snprintf(newest.next_path, 512, "%s?_HLS_msn=%ld&_HLS_part=%ld", base, sequence, parts);
  newest.part = -1;
  char *uri = last ? strstr(last, "URI=\"") : NULL;
  if (!uri) return;
  int length = strcspn(uri + 5, "\"");
  snprintf(newest.part_path, 512, "%.*s%.*s", (int)(slash - base) + 1, base, length, uri + 5);
  char *number = strrchr(newest.part_path, '/');
  newest.part = number ? atoll(number + 2) : -1;
}

static uint64_t last_mark(const char *data, int size) {
  uint64_t found = 0;
  for (const char *at = data; (at = memmem(at, data + size - at, MARK, 8)); at += 8)
    if (data + size - at >= MARK_SIZE) memcpy(&found, at + 8, 8);
  return found;
}

static void parked(conn *c, uint64_t at) {
  if (c->part >= 0) {
    if (c->probe) marks[c->part % MARKS] = last_mark(c->keep, c->kept);
    c->part = -1;
  } else {
    understand(c->keep, c->kept);
    if (measuring && c->blocking && newest.part >= 0) {
      if (wake_count == wake_room) {
        wake_room = wake_room ? wake_room * 2 : 1 << 16;
        wakes = need(realloc(wakes, wake_room * sizeof *wakes));
      }
      wakes[wake_count++] = (wake){newest.part, at};
    }
    if (newest.part >= 0 && (all_parts || c->probe)) {
      c->part = newest.part;
      c->keeping = c->probe;
      c->blocking = 0;
      ask(c, newest.part_path);
      return;
    }
  }
  c->keeping = 1;
  c->blocking = 1;
  ask(c, newest.next_path);
}

// Of every part all viewers should have been told once; returns which share was.
static double wake_latencies(void) {
  int64_t first = INT64_MAX, last = -1;
  latency_count = 0;
  for (size_t i = 0; i < wake_count; i++) {
    if (wakes[i].part < first) first = wakes[i].part;
    if (wakes[i].part > last) last = wakes[i].part;
  }
  size_t inner = 0;
  for (size_t i = 0; i < wake_count; i++) {
    if (wakes[i].part == first || wakes[i].part == last) continue;  // cut by the measured time
    inner++;
    uint64_t mark = marks[wakes[i].part % MARKS];
    if (mark && mark < wakes[i].at) latency(wakes[i].at - mark);
  }
  return last > first + 1 ? (double)inner / (last - first - 1) / connections : 0;
}

// ---- stream

static void scan(conn *c) {
  char *at = c->keep, *end = at + c->kept;
  uint64_t now = now_ns(), sent;
  for (char *found; (found = memmem(at, end - at, MARK, 8)) && end - found >= MARK_SIZE;) {
    memcpy(&sent, found + 8, 8);
    if (measuring && sent < now) latency(now - sent);
    at = found + MARK_SIZE;
  }
  if (end - at > MARK_SIZE + 8) at = end - MARK_SIZE - 8;
  c->kept = end - at;
  memmove(c->keep, at, c->kept);
}

static void drain(conn *c) {
  while (!c->closed) {
    char *to = c->probe ? c->keep + c->kept : junk;
    int room = c->probe ? BODY - c->kept : JUNK;
    ssize_t got = take(c, to, room, c->probe ? 0 : MSG_TRUNC);
    if (got <= 0) {
      if (got < 0 && errno == EAGAIN) return;
      errors++;
      c->closed = 1;
      epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
      return;
    }
    received += got;
    c->bytes += got;
    if (c->probe) {
      c->kept += got;
      scan(c);
    } else if (!c->ssl && got < room) {
      return;
    }
  }
}

// ---- the whole

static void begin(void) {
  // Probes are spread over all viewers: those that are served first would tell nothing.
  int every = probes && probes < connections ? connections / probes : 1;
  for (int i = 0; i < connections; i++) {
    conn *c = &all[i];
    c->part = -1;
    c->path = i % path_count;
    c->probe = probes && i % every == every / 2;
    c->keeping = mode == PARK;
    if (mode == PARK || (mode == STREAM && c->probe)) c->keep = need(malloc(BODY));
    // Each connection is a viewer of its own: sessions are told apart by the User-Agent.
    snprintf(c->headers, sizeof c->headers,
             "Host: 127.0.0.1:%d\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) bench/%d\r\n"
             "Accept: */*\r\nAccept-Language: en-US,en;q=0.9\r\nAccept-Encoding: identity\r\n"
             "Origin: http://player.example\r\n%s\r\n", port, i,
             use_ws ? "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                    : "");
    dial(c);
    if (mode != STREAM || c->probe) watch(c);
    if (use_rtmp) {
      blocking(c->fd);
      rtmp_play(c->fd, port, paths[0]);
      nonblocking(c->fd);
    } else {
      ask(c, paths[c->path]);
    }
    if (mode != GET && i % 50 == 49) usleep(20000);  // a crowd, not a flood
  }
}

static void loop(uint64_t until) {
  struct epoll_event events[1024];
  uint64_t next_sweep = 0;
  for (uint64_t now; (now = now_ns()) < until;) {
    if (mode == STREAM && now >= next_sweep) {
      for (int i = 0; i < connections; i++)
        if (!all[i].probe) drain(&all[i]);
      next_sweep = now + sweep_ms * 1000000ull;
    }
    int count = epoll_wait(poller, events, 1024, 10);
    for (int i = 0; i < count; i++) {
      conn *c = events[i].data.ptr;
      if (mode == STREAM) {
        drain(c);
        continue;
      }
      int done = progress(c);
      if (done < 0) {
        lost(c);
        if (mode == PARK) c->part = -1, c->blocking = 0, c->keeping = 1;
        ask(c, paths[c->path]);
      } else if (done) {
        uint64_t at = now_ns();
        requests++;
        if (mode == PARK) {
          parked(c, at);
        } else {
          if (measuring) latency(at - c->asked);
          c->path = (c->path + 1) % path_count;
          ask(c, paths[c->path]);
        }
      }
    }
  }
}

static void print_rates(double took) {
  double least = 1e18, most = 0, sum = 0;
  for (int i = 0; i < connections; i++) {
    double rate = (all[i].bytes - all[i].bytes_before) * 8 / took;
    sum += rate;
    if (rate < least) least = rate;
    if (rate > most) most = rate;
  }
  printf("\"bits_least\":%.0f,\"bits_mean\":%.0f,\"bits_most\":%.0f,", least, sum / connections,
         most);
}

static void read_arguments(int count, char **words) {
  if (count < 2) exit(1);
  mode = !strcmp(words[1], "get") ? GET : !strcmp(words[1], "park") ? PARK : STREAM;
  for (int i = 2; i < count; i++) {
    const char *word = words[i], *value = i + 1 < count ? words[i + 1] : "";
    if (word[0] != '-') paths[path_count < MAX_PATHS ? path_count++ : 0] = word;
    else if (!strcmp(word, "-ws")) use_ws = 1;
    else if (!strcmp(word, "-rtmp")) use_rtmp = 1;
    else if (!strcmp(word, "-tls")) use_tls = 1;
    else if (!strcmp(word, "-parts")) all_parts = 1;
    else if (!strcmp(word, "-P")) port = atoi(value), i++;
    else if (!strcmp(word, "-c")) connections = atoi(value), i++;
    else if (!strcmp(word, "-d")) seconds = atof(value), i++;
    else if (!strcmp(word, "-w")) warmup = atof(value), i++;
    else if (!strcmp(word, "-probes")) probes = atoi(value), i++;
    else if (!strcmp(word, "-sweep")) sweep_ms = atoi(value), i++;
    else if (!strcmp(word, "-pid")) {
      for (char *one = strtok(words[++i], ","); one && pid_count < MAX_PIDS; one = strtok(NULL, ","))
        pids[pid_count++] = atoi(one);
    } else {
      fprintf(stderr, "lg: what is %s?\n", word);
      exit(1);
    }
  }
  if (!path_count) exit(1);
}

int main(int count, char **words) {
  read_arguments(count, words);
  many_descriptors();
  if (use_tls) {
    tls = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_verify(tls, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_ciphersuites(tls, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384");
  }
  poller = epoll_create1(0);
  all = need(calloc(connections, sizeof *all));
  long memory = all_anonymous_kb();
  begin();
  loop(now_ns() + warmup * 1e9);
  uint64_t cpu[MAX_PIDS], began = now_ns(), own = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
  uint64_t requests_before = requests, received_before = received;
  for (int i = 0; i < pid_count; i++) cpu[i] = cpu_of(pids[i]);
  for (int i = 0; i < connections; i++) all[i].bytes_before = all[i].bytes;
  latency_count = 0;
  measuring = 1;
  loop(began + seconds * 1e9);
  double took = (now_ns() - began) / 1e9;
  own = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - own;
  printf("{\"seconds\":%.3f,\"connections\":%d,\"requests\":%lu,\"bytes\":%lu,\"errors\":%lu,"
         "\"bad_status\":%lu,\"lg_util\":%.3f,", took, connections, requests - requests_before,
         received - received_before, errors, bad_status, own / 1e9 / took);
  printf("\"cpu\":{");
  for (int i = 0; i < pid_count; i++)
    printf("%s\"%d\":%.6f", i ? "," : "", pids[i], (cpu_of(pids[i]) - cpu[i]) / 1e9);
  printf("},\"memory_kb\":[%ld,%ld],", memory, all_anonymous_kb());
  if (mode == STREAM) print_rates(took);
  if (mode == PARK) printf("\"told\":%.4f,", wake_latencies());
  if (latency_count) {
    qsort(latencies, latency_count, sizeof *latencies, by_size);
    printf("\"p50_ms\":%.3f,\"p90_ms\":%.3f,\"p99_ms\":%.3f,\"most_ms\":%.3f,", quantile_ms(0.5),
           quantile_ms(0.9), quantile_ms(0.99), quantile_ms(1));
  }
  printf("\"samples\":%zu}\n", latency_count);
  return 0;
}
