"""What the jobs of the pipeline run besides make."""
