"""How the service runs: gunicorn's ordinary deployment, each worker imports the application."""

bind = "0.0.0.0:8000"
workers = 2
worker_tmp_dir = "/dev/shm"  # the root file system is read-only
