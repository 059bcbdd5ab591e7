// ref: the least that a server could do, in C, to compare with.
//
//   ref fan PORT TICK_US SIZE             SIZE bytes to every socket each tick
//   ref park PORT TICK_US PLAYLIST PART   LL-HLS: answers every parked reload with a playlist of
//                                         PLAYLIST bytes each tick, and asks for parts at once
//
// What is sent ends with a mark, so that the load generator sees how late it is. A fan sends what
// fits and forgets the rest: the load generator's rates show it.
#include "common.h"

#include <sys/timerfd.h>

enum { MOST = 65536 };

static int fan, playlist_size, part_size;
static int members[MOST], member_count;
static char *playlist, *part;
static int playlist_bytes, part_bytes;
static long number;

static const char answer[] =
    "HTTP/1.1 200 OK\r\nServer: ref\r\nContent-Type: video/mp4\r\nContent-Length: %d\r\n"
    "Cache-Control: max-age=60\r\nAccess-Control-Allow-Origin: *\r\n\r\n";

static void mark(char *end) {
  uint64_t now = now_ns();
  memcpy(end - MARK_SIZE, MARK, 8);
  memcpy(end - 8, &now, 8);
}

static void leave(int fd) {
  int kept = 0;
  for (int i = 0; i < member_count; i++)
    if (members[i] != fd) members[kept++] = members[i];
  member_count = kept;
}

static void tick_fan(void) {
  mark(part + part_size);
  for (int i = 0; i < member_count; i++) send(members[i], part, part_size, MSG_NOSIGNAL);
}

static void tick_park(void) {
  static int woken[MOST];
  int count = member_count;
  number++;
  mark(part + part_bytes);
  int head = sprintf(playlist, answer, playlist_size);
  int said = sprintf(playlist + head,
                     "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:1\n#EXT-X-PART:URI=\"1/p%ld.m4s\"\n", number);
  memset(playlist + head + said, '#', playlist_size - said);
  playlist_bytes = head + playlist_size;
  memcpy(woken, members, count * sizeof *woken);
  member_count = 0;
  for (int i = 0; i < count; i++) send(woken[i], playlist, playlist_bytes, MSG_NOSIGNAL);
}

static void heard(int poller, int fd) {
  char request[4096];
  ssize_t got = recv(fd, request, sizeof request - 1, 0);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) {
    leave(fd);
    epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL);
    close(fd);
    return;
  }
  request[got] = 0;
  if (fan) {
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n";
    send(fd, head, sizeof head - 1, MSG_NOSIGNAL);
    members[member_count++] = fd;
  } else if (strstr(request, ".m4s")) {
    // The buffers of the socket take a whole part: it is the client that waits for it.
    send(fd, part, part_bytes, MSG_NOSIGNAL);
  } else {
    members[member_count++] = fd;
  }
}

int main(int count, char **words) {
  if (count < 5) return 1;
  fan = !strcmp(words[1], "fan");
  int port = atoi(words[2]), one = 1, room = 4 << 20;
  long tick = atol(words[3]);
  many_descriptors();
  playlist_size = atoi(words[4]);
  part_size = fan ? playlist_size : atoi(words[5]);
  playlist = need(malloc(playlist_size + 1024));
  part = need(malloc(part_size + 1024));
  int head = fan ? 0 : sprintf(part, answer, part_size);
  memset(part + head, 'x', part_size);
  part_bytes = head + part_size;

  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  struct sockaddr_in address = loopback(port);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (!fan) setsockopt(listener, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
  if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) fail("listen");
  int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), poller = epoll_create1(0);
  struct timespec every = {tick / 1000000, tick % 1000000 * 1000};
  struct itimerspec times = {every, every};
  timerfd_settime(timer, 0, &times, NULL);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[512];
  epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
  event.data.fd = timer;
  epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
  for (;;) {
    int ready = epoll_wait(poller, events, 512, -1);
    for (int i = 0; i < ready; i++) {
      int fd = events[i].data.fd;
      if (fd == listener) {
        while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
          no_delay(fd);
          event.data.fd = fd;
          epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
        }
      } else if (fd == timer) {
        uint64_t times_up;
        if (read(timer, &times_up, 8) == 8) fan ? tick_fan() : tick_park();
      } else {
        heard(poller, fd);
      }
    }
  }
}
