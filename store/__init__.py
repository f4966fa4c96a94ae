"""Parts of `db.Store`: the tasks, whether something has changed, what is searched for; and how to move it all."""
