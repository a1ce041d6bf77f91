"""One page about one run or several: what the logs of runs become for people.

`course` reads a run, `plot` makes curves of it, `page` puts all together with `templates/report/page.html.j2`.
"""
