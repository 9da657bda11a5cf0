"""The last stage: what a run came to, as a table in the terminal and as one HTML page that needs no server.

`table.table` and `page.render` are the two entrances; both read the `results.json` that evaluation wrote.
Nothing else imports this package, so that matplotlib, jinja2 and rich are loaded only when a report is made.
"""
