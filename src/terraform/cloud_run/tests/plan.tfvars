project = "example-project"
image   = "us-central1-docker.pkg.dev/example-project/servekit/cloudrun:1"
