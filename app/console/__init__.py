"""The console: the page at ``/``, its modules and its style, as files; and the routes that serve them."""
