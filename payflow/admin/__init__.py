"""What every page of the back office shares: it reads, and it reads a bounded amount.

``ReadOnlyModelAdmin`` refuses every write to everybody, superusers too. Its lists work
inside one ledger at a time and page by key, never by OFFSET, so that each page is
served by an index whatever the size of the table:

- the scope (a ledger, or one account's entries) and the order come from one index;
- a filter that has no index looks through at most ``WINDOW_ROWS`` rows of that order,
  says so, and goes on from there with the next page;
- a search finds at most ``MAX_MATCHES`` ids by an index and lists those;
- a count stops at ``MAX_COUNT``.

Where to look: ``bounds`` has the limits, ``cells`` how values, links and tables look,
``scope`` the ledger that a page works in, ``filters`` and ``lists`` what makes a list,
``read_only`` the admin of a model, ``figures`` what stands on the index page. The
pages themselves are in each app's ``admin``.

The kernel imports no app: ledgers are reached by the name of their model.
"""
