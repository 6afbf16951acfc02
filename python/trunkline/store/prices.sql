-- name: clear_prices
-- Forget all prices; new ones follow in the same transaction.
delete from trunkline.model_prices;

-- name: insert_prices
-- Insert prices in US dollars a million tokens, a column each as an array.
insert into trunkline.model_prices (provider, model, input_usd_per_mtok, output_usd_per_mtok,
                                    cache_read_usd_per_mtok, cache_write_usd_per_mtok, context_tokens, tiers)
select * from unnest($1::text[], $2::text[], $3::numeric[], $4::numeric[], $5::numeric[], $6::numeric[], $7::int[],
                     $8::jsonb[])
    on conflict do nothing;
