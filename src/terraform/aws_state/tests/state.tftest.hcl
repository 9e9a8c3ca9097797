mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
}

run "versioned_encrypted_and_private" {
  command = plan

  assert {
    condition     = aws_s3_bucket_versioning.state.versioning_configuration[0].status == "Enabled"
    error_message = "a state that was overwritten must come back"
  }
  assert {
    condition     = aws_s3_bucket.state.bucket == "llama-k8s-platform-state-123456789012"
    error_message = "the account makes the bucket's name unique"
  }
  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.state.block_public_acls,
      aws_s3_bucket_public_access_block.state.block_public_policy,
      aws_s3_bucket_public_access_block.state.ignore_public_acls,
      aws_s3_bucket_public_access_block.state.restrict_public_buckets,
    ])
    error_message = "a state holds secrets; nothing of it is public"
  }
}

run "locks_with_a_file_in_the_bucket" {
  command = plan

  assert {
    condition     = strcontains(output.backend, "use_lockfile = true")
    error_message = "locking must be on"
  }
  assert {
    condition     = length(aws_dynamodb_table.lock) == 0 && !strcontains(output.backend, "dynamodb_table")
    error_message = "no table unless it is asked for"
  }
}

run "locks_with_a_table_where_asked" {
  command = plan

  variables {
    lock_with_dynamodb = true
  }
  assert {
    condition     = aws_dynamodb_table.lock[0].hash_key == "LockID"
    error_message = "the backend finds its lock by this key"
  }
  assert {
    condition     = strcontains(output.backend, "dynamodb_table = \"llama-k8s-platform-lock\"")
    error_message = "the backend must be told of the table"
  }
}

run "refuses_a_name_that_is_no_bucket" {
  command = plan
  variables {
    name = "Llama_Platform"
  }
  expect_failures = [var.name]
}

run "refuses_to_forget_states_at_once" {
  command = plan
  variables {
    old_versions_days = 1
  }
  expect_failures = [var.old_versions_days]
}
