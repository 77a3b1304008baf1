locals {
  name = "bridge-prod"
  url  = "https://${var.domain_name}"
}

module "networking" {
  source = "../../modules/networking"

  name               = local.name
  availability_zones = var.availability_zones
}

module "security" {
  source = "../../modules/security"

  name           = local.name
  vpc_id         = module.networking.vpc_id
  vpc_cidr_block = module.networking.vpc_cidr_block
  cache_port     = module.cache.port
}

module "storage" {
  source = "../../modules/storage"

  name = local.name
}

module "alb" {
  source = "../../modules/alb"

  name              = local.name
  vpc_id            = module.networking.vpc_id
  public_subnet_ids = module.networking.public_subnet_ids
  security_group_id = module.security.alb_security_group_id
  certificate_arn   = var.certificate_arn
  log_bucket_name   = module.storage.log_bucket_name
}

module "waf" {
  source = "../../modules/waf"

  name    = local.name
  alb_arn = module.alb.alb_arn
}

module "cache" {
  source = "../../modules/cache"

  name                    = local.name
  private_subnet_ids      = module.networking.private_subnet_ids
  cache_security_group_id = module.security.cache_security_group_id
}

module "secrets" {
  source = "../../modules/secrets"

  name     = local.name
  values   = var.secrets
  versions = var.secret_versions
}

module "ecs" {
  source = "../../modules/ecs"

  name                   = local.name
  image                  = var.image
  private_subnet_ids     = module.networking.private_subnet_ids
  task_security_group_id = module.security.task_security_group_id
  target_group_arn       = module.alb.target_group_arn
  log_group_name         = module.monitoring.log_group_name
  secrets                = module.secrets.secret_arns
  redis_url_secret_arn   = module.cache.redis_url_secret_arn
  dead_letter_bucket_arn = module.storage.dead_letter_bucket_arn
  dead_letter_table_arn  = module.storage.dead_letter_table_arn

  environment = merge(var.settings, {
    PUBLIC_URL      = local.url
    N8N_API_URL     = var.n8n_api_url
    DEAD_LETTER_URL = "s3://${module.storage.dead_letter_bucket_name}/dead-letters"
  })
}

module "monitoring" {
  source = "../../modules/monitoring"

  name                    = local.name
  log_group_name          = "/ecs/${local.name}"
  cluster_name            = module.ecs.cluster_name
  service_name            = module.ecs.service_name
  alb_arn_suffix          = module.alb.alb_arn_suffix
  target_group_arn_suffix = module.alb.target_group_arn_suffix
  alarm_email             = var.alarm_email
}
