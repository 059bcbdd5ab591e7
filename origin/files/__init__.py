"""Files played as live streams: opened by FFmpeg in a child process, paced by their timestamps."""
