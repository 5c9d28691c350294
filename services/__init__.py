"""What nodes share while a prompt runs: loading, this machine, progress, videos, the bucket, pose nets."""
