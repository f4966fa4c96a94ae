"""Parts of the store: the tasks, feedback, pages, what is searched for, what has changed; and how to move it all."""
