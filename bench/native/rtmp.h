// The least of an RTMP client that plays: handshake, connect, createStream, play.
// The answers are not read but for the handshake: the marks in the pictures tell that it plays.

static int rtmp_text(uint8_t *to, const char *text, int key) {
  int size = strlen(text), head = key ? 0 : 1;
  to[0] = 2;  // an AMF0 string; keys of objects go without the type
  to[head] = size >> 8;
  to[head + 1] = size;
  memcpy(to + head + 2, text, size);
  return head + 2 + size;
}

static int rtmp_number(uint8_t *to, double value) {
  uint64_t bits;
  memcpy(&bits, &value, 8);
  to[0] = 0;
  for (int i = 0; i < 8; i++) to[1 + i] = bits >> (56 - 8 * i);
  return 9;
}

static void rtmp_write(int fd, const void *data, int size) {
  if (write(fd, data, size) != size) fail("RTMP");
}

// A command in chunks of 128 bytes, which is what both sides begin with.
static void rtmp_command(int fd, int stream, const uint8_t *body, int size) {
  uint8_t out[1024] = {3, 0, 0, 0, 0, size >> 8, size, 20, stream};
  int used = 12;
  for (int at = 0; at < size; at += 128) {
    if (at) out[used++] = 0xC3;
    int piece = size - at < 128 ? size - at : 128;
    memcpy(out + used, body + at, piece);
    used += piece;
  }
  rtmp_write(fd, out, used);
}

static void rtmp_play(int fd, int port, const char *path) {
  char app[64], name[64], url[128];
  if (sscanf(path, "/%63[^/]/%63s", app, name) != 2) fail("RTMP needs /APP/STREAM");
  snprintf(url, sizeof url, "rtmp://127.0.0.1:%d/%s", port, app);
  uint8_t hello[1537] = {3}, theirs[1 + 2 * 1536];
  rtmp_write(fd, hello, sizeof hello);
  if (recv(fd, theirs, sizeof theirs, MSG_WAITALL) != sizeof theirs) fail("RTMP handshake");
  rtmp_write(fd, theirs + 1, 1536);
  uint8_t body[512];
  int size = rtmp_text(body, "connect", 0);
  size += rtmp_number(body + size, 1);
  body[size++] = 3;  // an object
  size += rtmp_text(body + size, "app", 1);
  size += rtmp_text(body + size, app, 0);
  size += rtmp_text(body + size, "tcUrl", 1);
  size += rtmp_text(body + size, url, 0);
  memcpy(body + size, "\0\0\x09", 3);
  rtmp_command(fd, 0, body, size + 3);
  size = rtmp_text(body, "createStream", 0);
  size += rtmp_number(body + size, 2);
  body[size++] = 5;  // null
  rtmp_command(fd, 0, body, size);
  size = rtmp_text(body, "play", 0);
  size += rtmp_number(body + size, 3);
  body[size++] = 5;
  size += rtmp_text(body + size, name, 0);
  size += rtmp_number(body + size, -2000);  // live, or whatever there is
  rtmp_command(fd, 1, body, size);
}
