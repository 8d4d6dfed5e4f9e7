"""Reading and writing of pipeline folders and Hub repositories."""
