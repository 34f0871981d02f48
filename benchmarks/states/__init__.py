"""States of users: their size, how far they are from encoding the whole history, and what one event costs."""
